package sandboxd

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/api"
	"github.com/dormouse-sandbox/dormouse/sandboxd/home"
	"github.com/dormouse-sandbox/dormouse/sandboxd/httpd"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// Daemon is a running daemon. It holds the exclusive lock of its home. The caller must close it.
type Daemon struct {
	cfg     Config
	engine  *lazyEngine
	store   *store.Store
	manager *manager.Manager
	handler *api.Handler
	lock    *home.Lock
}

// Timeouts of a daemon.
const (
	startPatience = 10 * time.Second // how long Open waits for the engine; afterwards the manager keeps trying
	stopPatience  = 10 * time.Second // how long Serve waits for the requests in flight when it stops
)

// Open locks the home, opens its store and starts the manager, which reconciles the home's sandboxes with the engine. Open
// succeeds even if the engine does not answer: until it does, calls that need the engine return an error. The caller must
// call Close.
func Open(ctx context.Context, cfg Config) (_ *Daemon, err error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if err := home.Prepare(cfg.Home); err != nil {
		return nil, err
	}
	d := &Daemon{cfg: cfg}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if d.lock, err = home.Acquire(ctx, cfg.Home); err != nil {
		return nil, err
	}
	database := filepath.Join(cfg.Home, home.DatabaseName)
	if err := writePid(d.lock, database); err != nil {
		return nil, err
	}
	id, err := d.lock.ID()
	if err != nil {
		return nil, err
	}
	if d.store, err = store.Open(ctx, database, cfg.Logger); err != nil {
		return nil, err
	}
	d.engine = newEngine(&d.cfg, id, d.store)
	if err := d.start(ctx); err != nil {
		return nil, err
	}
	d.handler = api.NewHandler(d.manager, d.info, cfg.Logger)
	return d, nil
}

// writePid writes the pid file. On a full disk, it first frees the store's reserve. If the disk is still full, the daemon
// starts without a pid file, because only a daemon can delete sandboxes to free the disk.
func writePid(l *home.Lock, database string) error {
	err := l.WritePid()
	if store.IsFull(err) && store.FreeReserve(database) {
		err = l.WritePid()
	}
	if store.IsFull(err) {
		return nil
	}
	return err
}

func (d *Daemon) start(ctx context.Context) (err error) {
	d.manager, err = manager.New(manager.Config{
		Store:                d.store,
		Engine:               d.engine,
		DefaultImage:         d.cfg.Image,
		AllowImages:          d.cfg.AllowImage,
		DefaultTTL:           time.Duration(d.cfg.TTL),
		MaxSandboxes:         d.cfg.MaxSandboxes,
		MaxSandboxesPerOwner: d.cfg.MaxSandboxesPerOwner,
		MaxMemory:            int64(d.cfg.MaxMemory),
		IdleSuspend:          time.Duration(d.cfg.IdleSuspend),
		CheckpointEvery:      time.Duration(d.cfg.CheckpointEvery),
		MaxDisk:              int64(d.cfg.MaxDisk),
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

// Sandboxes returns the daemon's manager.
func (d *Daemon) Sandboxes() api.Sandboxes { return d.manager }

// Handler returns the handler of the v1 API, for a server that also serves other routes.
func (d *Daemon) Handler() *api.Handler { return d.handler }

// Listen listens on the home's socket. The caller must close the listener or pass it to Serve.
func (d *Daemon) Listen() (net.Listener, error) { return d.lock.Listen(d.cfg.Logger) }

// Serve serves the API on l until ctx ends, and closes l. When ctx ends, open streams and requests that wait for an execution
// fail with an error that the daemon is stopping. Serve then waits up to stopPatience for the other requests in flight.
func (d *Daemon) Serve(ctx context.Context, l net.Listener) error {
	d.cfg.Logger.Info("serving", "address", l.Addr().String(), "version", d.cfg.Version)
	return httpd.Server{Handler: d.handler, Log: d.cfg.Logger, StopPatience: stopPatience, OnStop: func() {
		d.cfg.Logger.Info("stopping; sandboxes and their executions continue")
		d.handler.Drain()
	}}.Serve(ctx, l)
}

// Close closes the manager, the engine and the store, and unlocks the home. Sandboxes continue to exist.
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
	if d.lock != nil {
		errs = append(errs, d.lock.Release())
	}
	return errors.Join(errs...)
}
