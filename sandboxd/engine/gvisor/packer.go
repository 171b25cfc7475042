package gvisor

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/durable"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// DefaultCompressAfter is how long a sandbox sleeps before its state is compressed, to about a quarter. Who is
// woken sooner wakes faster.
const DefaultCompressAfter = time.Minute

// packer compresses the checkpoints of sandboxes that sleep, one at a time, when nobody else needs the
// machine. It gives up at once when a sandbox is wanted. Its zero value does nothing.
type packer struct {
	mu     sync.Mutex
	at     sandbox.ID // being compressed
	cancel context.CancelFunc
}

// start begins to compress what sleeps for longer than after, until e is closed.
func (p *packer) start(e *Engine, after time.Duration) {
	e.chores.Go(func() {
		giveWay()
		tick := time.NewTicker(max(after/4, time.Millisecond))
		defer tick.Stop()
		for {
			select {
			case <-e.ctx.Done():
				return
			case <-tick.C:
				e.packAll(e.ctx, after)
			}
		}
	})
}

// begin notes what is being compressed. The context that it returns ends with [packer.abandon].
func (p *packer) begin(ctx context.Context, id sandbox.ID) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancel(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at, p.cancel = id, cancel
	return ctx, func() {
		cancel()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.at, p.cancel = "", nil
	}
}

// abandon gives up compressing a sandbox's checkpoint. It does not wait.
func (p *packer) abandon(id sandbox.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at == id && p.cancel != nil {
		p.cancel()
	}
}

// packAll compresses what is not and has slept for long enough. What can't be compressed now,
// for want of room say, is tried again, and works as it is meanwhile.
func (e *Engine) packAll(ctx context.Context, after time.Duration) {
	ids, err := e.layout.ids()
	if err != nil {
		return
	}
	for _, id := range ids {
		// Cheap for those that are packed already, which are most.
		info, err := os.Stat(filepath.Join(e.layout.checkpoint(id), pagesFile))
		if ctx.Err() == nil && err == nil && time.Since(info.ModTime()) >= after {
			packing, end := e.packer.begin(ctx, id)
			_ = e.pack(packing, id)
			end()
		}
	}
}

// pack compresses a suspended sandbox's checkpoint. It works beside it, and has the sandbox's turn only to
// swap the two, if the checkpoint is still there.
func (e *Engine) pack(ctx context.Context, id sandbox.ID) (err error) {
	dir, packing := e.layout.checkpoint(id), e.layout.packingCheckpoint(id)
	if err := os.RemoveAll(packing); err != nil {
		return err
	}
	if err := os.Mkdir(packing, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(packing)) }() // the original, or what failed
	seal, err := os.ReadFile(filepath.Join(dir, manifestName))
	if err != nil {
		return err
	}
	m, err := readManifest(dir)
	if err != nil || m.packed() {
		return err
	}
	packed, err := m.pack(ctx, dir, packing)
	if err != nil {
		return err
	}
	if err := writeManifest(packing, packed); err != nil {
		return err
	}
	if text, err := os.ReadFile(filepath.Join(dir, endedName)); err == nil {
		if err := durable.WriteFile(filepath.Join(packing, endedName), text, 0o600); err != nil {
			return err
		}
	}
	release, err := e.locks.take(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	if now, err := os.ReadFile(filepath.Join(dir, manifestName)); err != nil || !bytes.Equal(now, seal) {
		return err // it is another one by now
	}
	return e.layout.swap(packing, dir)
}
