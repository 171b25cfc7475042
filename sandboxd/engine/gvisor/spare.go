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
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/stdio"
)

// A spare is a pooled sandbox: runsc has created its two processes, which wait for a checkpoint to restore, and no
// code runs in it. A sandbox that is resumed, forked or started from a snapshot runs in the spare, if the spare has the
// same configuration. It then need not wait until its processes are created. An engine has at most one spare. A spare is
// used once, and takes some 30 MB of memory. It ends with the engine, even if the daemon is killed: until it restores a
// checkpoint, it exits when its stdin is closed (third_party/runsc).

// spareDelay is how long after the latest start of a sandbox the next spare is created, so that it does not compete for
// the CPUs with the sandbox that was just started.
const spareDelay = 500 * time.Millisecond

// spares holds at most one spare.
type spares struct {
	wants chan spareKind // a channel with a buffer of one, which holds the latest request

	mu    sync.Mutex
	ready *spare
}

// spareKind describes a spare. A sandbox can run in a spare only if they have the same kind.
type spareKind struct {
	build  string
	config ociSpec // without the path of the cgroup, which differs for each sandbox
}

type spare struct {
	folder.Instance
	sum     string // the checksum of the kind of the spare
	process process
	own     *stdio.Stream // the stream over the guest's stdin and stdout, or nil if the guest does not listen on them
}

// kindOf returns the kind of spare that fits a sandbox with this runsc build and configuration.
func kindOf(build string, config ociSpec) spareKind {
	config.Linux.CgroupsPath = ""
	return spareKind{build, config}
}

func (k spareKind) sum() string {
	text, _ := json.Marshal(k.config) // can't fail: the configuration contains only strings and numbers
	return folder.Hash(append(text, k.build...))
}

// want requests a spare of a kind. It replaces an earlier request that keepSpare has not received, and does not wait.
func (s *spares) want(k spareKind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.wants:
	default:
	}
	s.wants <- k
}

// acquire returns the spare if it is alive and of the kind k, and nil otherwise. The caller then owns the spare.
func (s *spares) acquire(k spareKind) *spare {
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

// keepSpare creates the spares that are requested, until the engine is closed.
func (e *Engine) keepSpare() {
	defer e.dropSpare("")
	var wanted spareKind
	quiet := time.NewTimer(0)
	quiet.Stop()
	for {
		select {
		case wanted = <-e.spares.wants:
			quiet.Reset(spareDelay)
		case <-quiet.C:
			if e.dropSpare(wanted.sum()) || !isPatchedRunsc(e.layout.Runsc(wanted.build)) {
				// There is a matching spare, or runsc is gVisor's own. That runsc ignores its stdin, so its spare
				// would outlive a killed daemon.
				continue
			}
			if made, err := e.makeSpare(e.ctx, wanted); err == nil { // without a spare, the next start only takes longer
				e.spares.mu.Lock()
				e.spares.ready = made
				e.spares.mu.Unlock()
			}
		case <-e.ctx.Done():
			return
		}
	}
}

// dropSpare ends the spare, unless it is alive and of the kind with this checksum. It reports whether the engine still
// has a spare.
func (e *Engine) dropSpare(sum string) (is bool) {
	e.spares.mu.Lock()
	it := e.spares.ready
	is = it != nil && it.sum == sum && it.process.alive()
	if !is {
		e.spares.ready = nil
	}
	e.spares.mu.Unlock()
	if it != nil && !is {
		ctx, cancel := engine.Cleanup(e.ctx)
		defer cancel()
		_ = e.endInstance(ctx, it.Instance, "") // if this fails, the next start of the daemon ends the spare
		it.close()
	}
	return is
}

func (e *Engine) makeSpare(ctx context.Context, k spareKind) (_ *spare, err error) {
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
	return &spare{in, k.sum(), p, own}, nil
}

// close closes the stream of a spare that no sandbox runs in.
func (s *spare) close() {
	if s.own != nil {
		s.own.Close()
	}
}

// endSpares ends all spares of this home that no sandbox runs in.
func (e *Engine) endSpares(ctx context.Context) error {
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
		// The folder does not have the name of a spare, so the engine has not created it.
		default:
			err = os.RemoveAll(in.Bundle)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("end the spare %s: %w", in.Name, err))
		}
	}
	return errors.Join(errs...)
}

// restoreInto starts a sandbox in a spare, from runsc's files in dir. If restoreInto fails, it closes the spare's
// stream, and the caller must end the sandbox, which also ends the spare.
func (e *Engine) restoreInto(ctx context.Context, id sandbox.ID, s *spare, build, dir string) error {
	if err := e.layout.WritePooled(id, s.Name); err != nil {
		endCtx, cancel := engine.Cleanup(ctx)
		defer cancel()
		s.close()
		return errors.Join(err, e.endInstance(endCtx, s.Instance, ""))
	}
	if err := e.call(ctx, build, "restore", "--detach", "--background", "--bundle="+s.Bundle, "--image-path="+dir, s.Name); err != nil {
		s.close()
		return notStarted(ctx, err)
	}
	return nil
}
