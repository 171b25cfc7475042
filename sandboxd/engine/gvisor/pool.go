package gvisor

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/runsc"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/stdio"
)

// A pooled sandbox is a container whose two processes runsc has created, and which waits for a checkpoint to restore.
// No code runs in it. A sandbox that is resumed, forked or started from a snapshot runs in the pooled sandbox, if the
// pooled sandbox has the same configuration and runsc build. This saves the time to create the processes, which is at
// least 15 % of the time that a create and the first statement take together. An engine has at most one unused pooled
// sandbox. Each is used once, and takes some 30 MB of memory. An unused pooled sandbox ends with the engine, even if the
// daemon is killed: its runsc exits when its stdin is closed (third_party/runsc). A used pooled sandbox keeps running,
// like any sandbox.

// poolDelay is how long keepPooled waits after the latest request before it creates a pooled sandbox. Most requests
// follow the start of a sandbox. Without the delay, creating the pooled sandbox would compete with that sandbox for the
// CPUs.
const poolDelay = 500 * time.Millisecond

// pool holds at most one unused pooled sandbox.
type pool struct {
	wants chan pooledKind // a channel with a buffer of one, which holds the latest request

	mu    sync.Mutex
	ready *pooled
}

// pooledKind describes a pooled sandbox. A sandbox can run in a pooled sandbox only if they have the same kind.
type pooledKind struct {
	build  string
	config ociSpec // without the path of the cgroup, which differs for each sandbox
}

type pooled struct {
	folder.Instance
	sum     string // the checksum of the kind of the pooled sandbox
	process process
	own     *stdio.Stream // the stream over the guest's stdin and stdout, or nil if the guest does not listen on them
}

// kindOf returns the kind of pooled sandbox that fits a sandbox with this runsc build and configuration.
func kindOf(build string, config ociSpec) pooledKind {
	config.Linux.CgroupsPath = ""
	return pooledKind{build, config}
}

func (k pooledKind) sum() string {
	text, _ := json.Marshal(k.config) // can't fail: the configuration contains only strings and numbers
	return folder.Hash(append(text, k.build...))
}

// want requests a pooled sandbox of a kind. It replaces an earlier request that keepPooled has not received, and does
// not wait.
func (s *pool) want(k pooledKind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.wants:
	default:
	}
	s.wants <- k
}

// acquire returns the pooled sandbox if it is alive and of the kind k, and nil otherwise. The pool does not hold the
// returned pooled sandbox any more: the caller must use or end it.
func (s *pool) acquire(k pooledKind) *pooled {
	sum := k.sum()
	s.mu.Lock()
	defer s.mu.Unlock()
	it := s.ready
	if it == nil || it.sum != sum || !it.process.alive() {
		return nil
	}
	s.ready = nil
	return it
}

// keepPooled creates the pooled sandboxes that are requested, until the engine is closed.
func (e *Engine) keepPooled() {
	defer e.dropPooled("")
	var wanted pooledKind
	quiet := time.NewTimer(0)
	quiet.Stop()
	for {
		select {
		case wanted = <-e.pool.wants:
			quiet.Reset(poolDelay)
		case <-quiet.C:
			if e.dropPooled(wanted.sum()) || !runsc.IsPatched(e.layout.Runsc(wanted.build)) {
				// There is a matching pooled sandbox already, or this runsc is not patched. A runsc without the patches
				// does not exit when its stdin is closed, so its pooled sandbox would outlive a killed daemon.
				continue
			}
			if made, err := e.makePooled(e.ctx, wanted); err == nil { // without a pooled sandbox, the next start only takes longer
				e.pool.mu.Lock()
				e.pool.ready = made
				e.pool.mu.Unlock()
			}
		case <-e.ctx.Done():
			return
		}
	}
}

// dropPooled ends the pooled sandbox, unless it is alive and of the kind with this checksum. It reports whether the
// engine still has a pooled sandbox.
func (e *Engine) dropPooled(sum string) (is bool) {
	e.pool.mu.Lock()
	it := e.pool.ready
	is = it != nil && it.sum == sum && it.process.alive()
	if !is {
		e.pool.ready = nil
	}
	e.pool.mu.Unlock()
	if it != nil && !is {
		ctx, cancel := engine.Cleanup(e.ctx)
		defer cancel()
		_ = e.endInstance(ctx, it.Instance, "") // if this fails, the next start of the daemon ends the pooled sandbox
		it.close()
	}
	return is
}

func (e *Engine) makePooled(ctx context.Context, k pooledKind) (_ *pooled, err error) {
	in := e.layout.PooledInstance(folder.PooledPrefix + strings.ToLower(rand.Text()))
	config := k.config
	config.Linux.CgroupsPath = e.cgroups.Path(in.Name)
	if err := os.Mkdir(in.Bundle, 0o700); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			cleanupCtx, cancel := engine.Cleanup(ctx)
			defer cancel()
			err = errors.Join(err, e.endInstance(cleanupCtx, in, ""))
		}
	}()
	if err := folder.WriteJSON(filepath.Join(in.Bundle, folder.ConfigFile), config); err != nil {
		return nil, err
	}
	p, own, err := e.launch(ctx, in, config, k.build, "create")
	if err != nil {
		return nil, err
	}
	return &pooled{in, k.sum(), p, own}, nil
}

// close closes the stream of an unused pooled sandbox.
func (s *pooled) close() {
	if s.own != nil {
		s.own.Close()
	}
}

// endPooled ends all unused pooled sandboxes of this home.
func (e *Engine) endPooled(ctx context.Context) error {
	ids, err := e.layout.IDs()
	if err != nil {
		return err
	}
	taken := map[string]bool{}
	for _, id := range ids {
		taken[e.layout.InstanceOf(id).Name] = true
	}
	entries, err := os.ReadDir(e.layout.Pool())
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		in := e.layout.PooledInstance(entry.Name())
		switch {
		case taken[in.Name]:
			continue
		case folder.IsInstance(in.Name):
			err = e.endInstance(ctx, in, "")
		// The folder does not have the name of a pooled sandbox, so the engine has not created it.
		default:
			err = os.RemoveAll(in.Bundle)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("end the pooled sandbox %s: %w", in.Name, err))
		}
	}
	return errors.Join(errs...)
}

// restoreInto starts a sandbox in a pooled sandbox, from the checkpoint files of runsc in the folder dir. If restoreInto
// fails, it closes the pooled sandbox's stream, and the caller must end the sandbox, which also ends the pooled sandbox.
func (e *Engine) restoreInto(ctx context.Context, id sandbox.ID, s *pooled, build, dir string) error {
	if err := e.layout.WritePooled(id, s.Name); err != nil {
		endCtx, cancel := engine.Cleanup(ctx)
		defer cancel()
		s.close()
		return errors.Join(err, e.endInstance(endCtx, s.Instance, ""))
	}
	if err := e.runsc.Call(ctx, build, "restore", "--detach", "--background", "--bundle="+s.Bundle, "--image-path="+dir, s.Name); err != nil {
		s.close()
		return notStarted(ctx, err)
	}
	return nil
}
