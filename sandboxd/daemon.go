package sandboxd

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/api"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// Daemon is a home in use: nobody else has it. The caller closes it.
type Daemon struct {
	cfg     Config
	engine  *lazyEngine
	store   *store.Store
	manager *manager.Manager
	handler *api.Handler
	unlock  func() error
}

// Times of a daemon.
const (
	startPatience = 10 * time.Second // with an engine at start; the manager goes on asking
	stopPatience  = 10 * time.Second // with requests that are being answered
)

// Open takes the home and brings its sandboxes back to hand. An engine that does not
// answer is no error: calls that need it say so until it does.
func Open(ctx context.Context, cfg Config) (_ *Daemon, err error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if err := prepare(cfg.Home); err != nil {
		return nil, err
	}
	d := &Daemon{cfg: cfg}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if d.unlock, err = lock(ctx, cfg.Home); err != nil {
		return nil, err
	}
	id, err := homeID(cfg.Home)
	if err != nil {
		return nil, err
	}
	if d.store, err = store.Open(ctx, filepath.Join(cfg.Home, databaseName), cfg.Logger); err != nil {
		return nil, err
	}
	d.engine = newEngine(&d.cfg, id, d.store)
	if err := d.start(ctx); err != nil {
		return nil, err
	}
	d.handler = api.NewHandler(d.manager, d.info, cfg.Logger)
	return d, nil
}

func (d *Daemon) start(ctx context.Context) (err error) {
	d.manager, err = manager.New(manager.Config{
		Store:                d.store,
		Engine:               d.engine,
		DefaultImage:         d.cfg.DefaultImage,
		AllowImages:          d.cfg.AllowImages,
		Limits:               d.cfg.Limits,
		DefaultTTL:           d.cfg.DefaultTTL,
		MaxSandboxes:         d.cfg.MaxSandboxes,
		MaxSandboxesPerOwner: d.cfg.MaxSandboxesPerOwner,
		MaxMemory:            d.cfg.MaxMemory,
		IdleSuspend:          d.cfg.IdleSuspend,
		CheckpointEvery:      d.cfg.CheckpointEvery,
		MaxDisk:              d.cfg.MaxDisk,
		OnExecution:          d.cfg.OnExecution,
		Logger:               d.cfg.Logger,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	return d.manager.Start(ctx)
}

// Sandboxes is what the daemon looks after.
func (d *Daemon) Sandboxes() api.Sandboxes { return d.manager }

// Handler is the v1 API, for a server that serves more than that.
func (d *Daemon) Handler() *api.Handler { return d.handler }

// Listen opens the home's socket. The caller closes it, or gives it to Serve.
func (d *Daemon) Listen() (net.Listener, error) { return listen(d.cfg.Home, d.cfg.Logger) }

// Serve serves the API on l until ctx ends, and then lets those who are being answered
// finish. Streams and waits end at once, with an error that says so. It closes l.
func (d *Daemon) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler:           d.handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       3 * time.Minute, // more than clients', so that they are the ones to close
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          log.New(lineLogger{d.cfg.Logger}, "", 0),
	}
	server.RegisterOnShutdown(d.handler.Drain)
	d.cfg.Logger.Info("serving", "address", l.Addr().String(), "version", d.cfg.Version)

	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	d.cfg.Logger.Info("stopping; sandboxes and what runs in them go on")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopPatience)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		d.cfg.Logger.Warn("requests were cut off", "err", err)
		server.Close()
	}
	<-failed
	return nil
}

// Close lets go of the home. Sandboxes stay.
func (d *Daemon) Close() error {
	var errs []error
	if d.manager != nil {
		d.manager.Close()
	}
	if d.engine != nil {
		errs = append(errs, d.engine.Close())
	}
	if d.store != nil {
		errs = append(errs, d.store.Close())
	}
	if d.unlock != nil {
		errs = append(errs, d.unlock())
	}
	return errors.Join(errs...)
}
