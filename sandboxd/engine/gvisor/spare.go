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

	"github.com/dormouse-sandbox/dormouse/sandboxd/durable"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/stdio"
)

// A spare is a sandbox that runsc has made ahead, and in which nothing runs: its two processes wait to be told what memory
// to restore. A sandbox that is resumed, copied or started from a snapshot takes it, if it is configured as the spare is, and need not
// wait until they are made. There is one at most; it is used once and takes some 30 MB of memory. It ends with the engine, even if
// the daemon is killed: until it is told what to restore, it exits when its stdin is closed (third_party/runsc).

// spareDelay is how long nothing may have been started when the next spare is made: what was just started has the CPUs first.
const spareDelay = 500 * time.Millisecond

// spares are the spare that there is, if there is one.
type spares struct {
	wants chan spareKind // holds the last wish

	mu    sync.Mutex
	ready *spare
}

// spareKind is what sandboxes have in common that can take the same spare.
type spareKind struct {
	build  string
	config ociSpec // without a cgroup
}

type spare struct {
	instance
	sum     string // of its kind
	process process
	own     *stdio.Stream // if its kind has one
}

// kindOf is the kind of a sandbox that has this configuration.
func kindOf(build string, config ociSpec) spareKind {
	config.Linux.CgroupsPath = ""
	return spareKind{build, config}
}

func (k spareKind) sum() string {
	text, _ := json.Marshal(k.config) // of strings and numbers: it can't fail
	return sumOf(append(text, k.build...))
}

// want asks for a spare of a kind, instead of what was asked for before.
func (s *spares) want(k spareKind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.wants:
	default:
	}
	s.wants <- k
}

// take returns the spare if it is of that kind, and nil if not. It is the caller's now.
func (s *spares) take(k spareKind) *spare {
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

// keepSpare makes spares as they are wanted, until the engine is closed.
func (e *Engine) keepSpare() {
	defer e.standbys.close()
	defer e.dropSpare("")
	var wanted spareKind
	quiet := time.NewTimer(0)
	quiet.Stop()
	for {
		select {
		case wanted = <-e.spares.wants:
			quiet.Reset(spareDelay)
		case <-quiet.C:
			e.keepStandbys(wanted.build)
			if e.dropSpare(wanted.sum()) || !isOurs(e.layout.runsc(wanted.build)) {
				continue // a spare of another build of runsc would outlive a killed daemon
			}
			if made, err := e.makeSpare(e.ctx, wanted); err == nil { // without one, starts are slower
				e.spares.mu.Lock()
				e.spares.ready = made
				e.spares.mu.Unlock()
			}
		case <-e.ctx.Done():
			return
		}
	}
}

// dropSpare ends the spare, unless it is alive and of the kind with this sum. It reports whether there is one still.
func (e *Engine) dropSpare(sum string) (is bool) {
	e.spares.mu.Lock()
	it := e.spares.ready
	is = it != nil && it.sum == sum && it.process.alive()
	if !is {
		e.spares.ready = nil
	}
	e.spares.mu.Unlock()
	if it != nil && !is {
		ctx, cancel := cleanup(e.ctx)
		defer cancel()
		_ = e.endInstance(ctx, it.instance, "") // what is left is ended at the next start
		it.close()
	}
	return is
}

func (e *Engine) makeSpare(ctx context.Context, k spareKind) (_ *spare, err error) {
	in := e.layout.spare("spare-" + strings.ToLower(rand.Text()))
	config := k.config
	config.Linux.CgroupsPath = e.cgroups.path(in.name)
	if err := os.Mkdir(in.bundle, 0o700); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			cleanupCtx, cancel := cleanup(ctx)
			defer cancel()
			err = errors.Join(err, e.endInstance(cleanupCtx, in, ""))
		}
	}()
	if err := writeJSON(filepath.Join(in.bundle, "config.json"), config); err != nil {
		return nil, err
	}
	p, own, err := e.launch(ctx, in, config, k.build, "create")
	if err != nil {
		return nil, err
	}
	return &spare{in, k.sum(), p, own}, nil
}

// close closes the stream of a spare that nobody has taken.
func (s *spare) close() {
	if s.own != nil {
		s.own.Close()
	}
}

// endSpares ends the spares that no sandbox has taken.
func (e *Engine) endSpares(ctx context.Context) error {
	ids, err := e.layout.ids()
	if err != nil {
		return err
	}
	taken := map[string]bool{}
	for _, id := range ids {
		taken[e.layout.instanceOf(id).name] = true
	}
	entries, err := os.ReadDir(e.layout.spares())
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		in := e.layout.spare(entry.Name())
		switch {
		case taken[in.name]:
			continue
		case isInstance(in.name):
			err = e.endInstance(ctx, in, "")
		default: // no engine made it
			err = os.RemoveAll(in.bundle)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("end the spare %s: %w", in.name, err))
		}
	}
	return errors.Join(errs...)
}

// restoreInto starts a sandbox in a spare from runsc's files in a folder.
func (e *Engine) restoreInto(ctx context.Context, id sandbox.ID, s *spare, build, dir string) error {
	if err := durable.Replace(e.layout.spareOf(id), spareFile(s.name, id), 0o600); err != nil {
		endCtx, cancel := cleanup(ctx)
		defer cancel()
		s.close()
		return errors.Join(err, e.endInstance(endCtx, s.instance, ""))
	}
	if err := e.call(ctx, build, "restore", "--detach", "--background", "--bundle="+s.bundle, "--image-path="+dir, s.name); err != nil {
		s.close()
		return notStarted(ctx, err)
	}
	return nil
}
