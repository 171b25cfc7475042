package gvisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/rootfs"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/runsc"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/streams"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/stdio"
)

const (
	// startTimeout limits how long a guest may take to answer.
	startTimeout     = time.Minute
	readyPoll        = 5 * time.Millisecond
	ownStreamTimeout = 5 * time.Second
)

// Create implements [engine.Engine].
func (e *Engine) Create(ctx context.Context, spec engine.Spec) (err error) {
	defer func() { err = folder.ExplainFullDisk(err, e.images.Dir) }()
	release, err := e.begin(ctx, spec)
	if err != nil {
		return err
	}
	defer release()
	img, err := e.findImage(ctx, spec.Image)
	if err != nil {
		return err
	}
	r, config, err := e.plan(spec, img)
	if err != nil {
		return err
	}
	return e.make(ctx, spec.ID, r, config, func() error { return e.startNew(ctx, spec.ID, r.Build) })
}

// begin checks that a sandbox can be created from spec, and acquires the sandbox's lock. The caller must call release.
func (e *Engine) begin(ctx context.Context, spec engine.Spec) (release func(), err error) {
	if e.bundle == nil {
		return nil, errors.New("create: the engine was opened without a guest")
	}
	if !sandbox.IsID(string(spec.ID)) {
		return nil, sandbox.Errorf(sandbox.Invalid, "%q is not a sandbox id", sandbox.Quote(string(spec.ID)))
	}
	return e.locks.Acquire(ctx, spec.ID)
}

// plan returns the record and the OCI configuration of a new sandbox. It installs the guest's files if they are missing.
func (e *Engine) plan(spec engine.Spec, img rootfs.Image) (folder.Record, ociSpec, error) {
	e.images.MarkUsed(img.Digest)
	guest, err := e.installGuest()
	if err != nil {
		return folder.Record{}, ociSpec{}, err
	}
	return folder.Record{Build: e.build, Guest: guest, Image: img.Digest, Schema: folder.RecordSchema}, profile(spec, facts{
		Root: e.images.Root(img.Digest), Path: img.Path, Guest: e.layout.Guest(guest), Etc: e.layout.Etc(),
		Cgroup: e.cgroups.Path(string(spec.ID)), Swap: e.cgroups.Swap,
	}), nil
}

// make creates a sandbox's folder and calls start to start the sandbox. If a step fails, it removes the sandbox again.
// The caller must hold the sandbox's lock.
func (e *Engine) make(ctx context.Context, id sandbox.ID, r folder.Record, config ociSpec, start func() error) error {
	sandboxDir := e.layout.Sandbox(id)
	if err := os.Mkdir(sandboxDir, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = engine.ErrExists
		}
		return fmt.Errorf("create %s: %w", id, err)
	}
	err := folder.WriteJSON(e.layout.Config(id), config)
	if err == nil {
		err = folder.WriteJSON(e.layout.Record(id), r)
	}
	if err == nil {
		err = start()
	}
	if err == nil {
		return nil
	}
	cleanupCtx, cancel := engine.Cleanup(ctx)
	defer cancel()
	return errors.Join(fmt.Errorf("create %s: %w", id, err), e.remove(cleanupCtx, id))
}

// startNew starts a new sandbox whose folder exists, and waits for its guest.
func (e *Engine) startNew(ctx context.Context, id sandbox.ID, build string) error {
	config, err := e.config(id)
	if err != nil {
		return err
	}
	p, own, err := e.launch(ctx, e.layout.Own(id), config, build, "run", "--detach")
	if err != nil {
		return err
	}
	return e.started(ctx, id, build, p, own)
}

// launch calls runsc to create the processes of an instance whose folder exists. The parameter command is the command
// of runsc: "run", "restore" or "create". launch returns the instance's process. If the configuration makes the guest
// listen on its stdin and stdout, launch also returns the stream over them, which the caller must close.
func (e *Engine) launch(ctx context.Context, in folder.Instance, config ociSpec, build, command string, args ...string) (_ process, own *stdio.Stream, err error) {
	group, err := e.cgroups.Open(in.Name, config.Linux.Resources.limits())
	if err != nil {
		return process{}, nil, sandbox.Errorf(sandbox.Unavailable, "the sandbox's limits could not be set; the daemon's log has the details").WithCause(err)
	}
	defer group.Close() // does nothing if group is nil
	args = append([]string{command, "--bundle=" + in.Bundle, "--pid-file=" + in.PIDFile()}, args...)
	cmd := e.runsc.Command(build, append(append([]string{"--log-fd=3"}, args...), in.Name)...)
	if slices.Contains(config.Process.Args, stdio.Flag) {
		ours, stdin, stdout, openErr := streams.OpenPipes()
		if openErr != nil {
			return process{}, nil, openErr
		}
		defer stdin.Close()
		defer stdout.Close()
		cmd.Stdin, cmd.Stdout = stdin, stdout
		stream := stdio.New(ours)
		defer func() {
			if own == nil {
				stream.Close()
			}
		}()
		own = stream
	}
	if err := runsc.Start(ctx, group, cmd, command); err != nil {
		return process{}, nil, notStarted(ctx, err)
	}
	p, err := startedProcess(in)
	if err != nil {
		return process{}, nil, sandbox.Errorf(sandbox.Unavailable, "the sandbox ended before it answered").WithCause(err)
	}
	runsc.RaiseOOMScore(p.PID) // raise the score again, because runsc may have started the process before [runsc.Start] raised the score of runsc
	return p, own, nil
}

// notStarted returns the error for a sandbox that runsc could not start. If ctx has ended, this is the error of ctx.
func notStarted(ctx context.Context, cause error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return sandbox.Errorf(sandbox.Unavailable, "the sandbox could not be started by gVisor; the daemon's log has the details").WithCause(cause)
}

// started records the process of a sandbox, and waits until the sandbox's guest can be reached.
func (e *Engine) started(ctx context.Context, id sandbox.ID, build string, p process, own *stdio.Stream) error {
	if own != nil {
		e.streams.Add(string(id), own)
	}
	if err := folder.WriteJSON(e.layout.Process(id), p); err != nil {
		return err
	}
	return e.awaitGuest(ctx, id, build, own)
}

// awaitGuest waits until the guest of a sandbox can be reached, over the guest's own stdin and stdout or through `guest
// connect`. It keeps the stream that has reached the guest for the next call of Dial.
func (e *Engine) awaitGuest(ctx context.Context, id sandbox.ID, build string, own *stdio.Stream) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout,
		sandbox.Errorf(sandbox.Unavailable, "the sandbox did not start within %s: the machine may be overloaded", startTimeout))
	defer cancel()
	ctx, died := context.WithCancelCause(ctx)
	defer died(nil)
	go e.watchSandbox(ctx, id, died)
	if own != nil && openOwnStream(ctx, own) {
		e.streams.Offer(string(id), own)
		return nil
	}
	for {
		s, err := e.connect(ctx, id, build)
		if err == nil {
			e.streams.Offer(string(id), s)
			return nil
		}
		if _, alive := e.processOfSandbox(id); !alive {
			return sandbox.Errorf(sandbox.Unavailable, "the sandbox ended before it answered: it %s", e.describeExit(id)).WithCause(err)
		}
		select {
		case <-time.After(readyPoll):
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

// openOwnStream opens the stream over the guest's own stdin and stdout, and reports whether the guest has accepted it.
// The guest of a restored sandbox does not accept it if another stream was open when the memory was saved. Such a guest
// can still be reached through `guest connect`.
func openOwnStream(ctx context.Context, own *stdio.Stream) bool {
	ctx, cancel := context.WithTimeout(ctx, ownStreamTimeout)
	defer cancel()
	return own.Open(ctx) == nil
}

// watchSandbox calls died once and returns when the sandbox's process has died. It returns without calling died when ctx
// ends. Without watchSandbox, awaitGuest would wait long for a `runsc exec` in a sandbox that has died.
func (e *Engine) watchSandbox(ctx context.Context, id sandbox.ID, died context.CancelCauseFunc) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if _, alive := e.processOfSandbox(id); !alive {
			died(errors.New("its process has died"))
			return
		}
	}
}
