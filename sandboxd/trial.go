package sandboxd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/home"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

const (
	trialName  = "trial-*" // the pattern of the names of trial homes
	trialStale = time.Hour // a trial home older than this was left by a program that was killed
)

const (
	trialTTL     = 10 * time.Minute // the TTL of the trial's sandbox; longer than any caller's deadline
	trialCleanup = 30 * time.Second // the time limit for deleting the trial's sandbox
)

// Try creates a sandbox, runs a statement in lang in it, and deletes it. It uses a temporary home inside the home, so that
// the home's daemon and sandboxes are not involved. Its error names the failed step and wraps the cause. If this program is
// killed, the sandbox expires.
func Try(ctx context.Context, cfg Config, lang sandbox.Language) (err error) {
	if err := cfg.validate(); err != nil {
		return err
	}
	dir, err := trialHome(cfg.Home)
	if err != nil {
		return fmt.Errorf("create a folder in the home: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	cfg.Home, cfg.TTL = dir, sandbox.Duration(trialTTL)
	cfg.IdleSuspend, cfg.CheckpointEvery = 0, 0
	cfg.Logger = slog.New(slog.DiscardHandler) // the error contains all that the caller needs
	d, err := Open(ctx, cfg)
	if err != nil {
		return fmt.Errorf("open the home: %w", err)
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return d.try(ctx, lang)
}

func trialHome(dir string) (string, error) {
	if err := home.Prepare(dir); err != nil {
		return "", err
	}
	old, _ := filepath.Glob(filepath.Join(dir, trialName))
	for _, trial := range old {
		if info, err := os.Lstat(trial); err == nil && time.Since(info.ModTime()) > trialStale {
			_ = os.RemoveAll(trial)
		}
	}
	return os.MkdirTemp(dir, trialName)
}

func (d *Daemon) try(ctx context.Context, lang sandbox.Language) (err error) {
	created, err := d.manager.Create(ctx, sandbox.CreateRequest{Language: lang})
	if err != nil {
		return fmt.Errorf("create the sandbox: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), trialCleanup)
		defer cancel()
		if deleteErr := d.manager.Delete(ctx, string(created.ID)); deleteErr != nil {
			err = errors.Join(err, fmt.Errorf("delete the sandbox: %w", deleteErr))
		}
	}()
	code, want := "print(6 * 7)", "42"
	if lang == sandbox.JavaScript {
		code = "console.log(6 * 7)"
	}
	req := sandbox.ExecuteRequest{Code: code, WaitSeconds: sandbox.MaxWaitSeconds, Window: sandbox.Window{Head: 1 << 10}}
	if err := req.Validate(lang); err != nil {
		return fmt.Errorf("run a statement: %w", err)
	}
	e, err := d.manager.Execute(ctx, string(created.ID), req)
	if err != nil {
		return fmt.Errorf("run a statement: %w", err)
	}
	var printed strings.Builder
	for _, event := range e.Events {
		printed.WriteString(event.Text)
	}
	if got := strings.TrimSpace(printed.String()); e.State != sandbox.ExecSucceeded || got != want {
		return fmt.Errorf("run a statement: its state is %s, and it printed %.200q, want %q. %s", e.State, got, want, e.Reason)
	}
	return nil
}
