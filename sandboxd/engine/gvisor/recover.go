package gvisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// recover puts right what a daemon that was killed left half done:
//
//   - a sandbox with a checkpoint is suspended: what still runs of it is ended, whether it was
//     being suspended or being resumed; nobody was told of anything that it did since
//   - a checkpoint that is not whole is no checkpoint: the sandbox goes on
//   - a sandbox whose processes have died falls back to what is kept of it
//   - what was being removed is removed, and so is a spare that nobody took
//
// A sandbox that does not run any more and has nothing to fall back to stays, so that [Engine.List] reports it. So does a damaged one.
//
// If a step fails for a sandbox, on a full disk for example, that is a warning and the other sandboxes are not affected: the next
// operation that needs the step repeats it. recover returns an error only if the folder of the sandboxes can't be read or ctx ends.
func (e *Engine) recover(ctx context.Context) error {
	ids, err := e.layout.ids()
	if err != nil {
		return err
	}
	for _, id := range ids {
		e.warn(fmt.Sprintf("sandbox %s was not put in order", id), e.recoverBox(ctx, id))
		if why := e.layout.damage(id); why != "" {
			e.warn(fmt.Sprintf("sandbox %s is lost", id), errors.New(why))
		}
	}
	if exists(e.layout.guest(e.guestName())) { // replaces the guest if it is damaged
		_, err := e.installGuest()
		e.warn("the guest's files could not be checked", err)
	}
	e.warn("files that a killed daemon left were not removed", errors.Join(e.endSpares(ctx), e.clearTrash(), e.tidySnapshots(), e.prune(ids)))
	return ctx.Err()
}

// warn adds an error to the engine's warnings.
func (e *Engine) warn(what string, err error) {
	if err != nil {
		e.info.Warnings = append(e.info.Warnings, what+": "+err.Error())
	}
}

func (e *Engine) recoverBox(ctx context.Context, id sandbox.ID) error {
	var err error
	if e.layout.suspended(id) {
		err = errors.Join(e.end(ctx, id), e.layout.discard(e.layout.kept(id)))
	} else {
		err = e.fallBack(ctx, id)
	}
	for _, dir := range []string{e.layout.makingCheckpoint(id), e.layout.packingCheckpoint(id), e.layout.openCheckpoint(id)} {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

func (e *Engine) clearTrash() error {
	for _, pattern := range []string{e.layout.sandboxes() + "/.trash-*", filepath.Join(e.layout.dir, "guest", ".making-*"),
		filepath.Join(e.layout.dir, "bin", ".making-*")} {
		left, _ := filepath.Glob(pattern)
		for _, dir := range left {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// prune removes each guest and runsc that no sandbox needs and that is not the latest.
func (e *Engine) prune(ids []sandbox.ID) error {
	needed := map[string]bool{"runsc-" + e.build: true}
	for _, id := range ids {
		r, err := e.layout.find(id)
		if sandbox.KindOf(err) == sandbox.NotFound {
			continue // never finished
		}
		if err != nil {
			return nil // who knows what it needs
		}
		needed["runsc-"+r.Build], needed[r.Guest] = true, true
	}
	for _, dir := range []string{"bin", "guest"} {
		entries, err := os.ReadDir(filepath.Join(e.layout.dir, dir))
		if err != nil {
			return err
		}
		for _, entry := range entries {
			if name := entry.Name(); !needed[name] && !strings.HasPrefix(name, e.bundle.ID()+"-") {
				if err := os.RemoveAll(filepath.Join(e.layout.dir, dir, name)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
