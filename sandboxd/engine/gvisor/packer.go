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

// DefaultCompressAfter is how long a sandbox is suspended before its checkpoint is compressed, to about a quarter of
// its size. A sandbox that is resumed before that time resumes faster, because its checkpoint need not be decompressed.
const DefaultCompressAfter = time.Minute

// packer compresses the checkpoints of suspended sandboxes, one at a time and with the lowest priority. It gives up
// when another operation needs the sandbox ([packer.abandon]). Its zero value does nothing.
type packer struct {
	mu     sync.Mutex
	at     sandbox.ID // the sandbox whose checkpoint is being compressed, or empty
	cancel context.CancelFunc
}

// start starts a goroutine that compresses the checkpoints of sandboxes that have been suspended for at least the duration
// after. The goroutine ends when e is closed.
func (p *packer) start(e *Engine, after time.Duration) {
	e.background.Go(func() {
		lowerPriority()
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

// begin records the sandbox whose checkpoint is being compressed. The context that it returns is cancelled by
// [packer.abandon]. The caller must call end.
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

// abandon cancels the compression of a sandbox's checkpoint, if it is in progress. It does not wait until the
// compression has ended.
func (p *packer) abandon(id sandbox.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at == id && p.cancel != nil {
		p.cancel()
	}
}

// packAll compresses each uncompressed checkpoint whose age is at least the duration after. If that fails, because the disk
// is full for example, the uncompressed checkpoint stays usable, and the next call tries again.
func (e *Engine) packAll(ctx context.Context, after time.Duration) {
	ids, err := e.layout.IDs()
	if err != nil {
		return
	}
	for _, id := range ids {
		// Only an uncompressed checkpoint has a pages file. This check is cheap, and most checkpoints are compressed.
		info, err := os.Stat(filepath.Join(e.layout.Checkpoint(id), pagesFile))
		if ctx.Err() == nil && err == nil && time.Since(info.ModTime()) >= after {
			packing, end := e.packer.begin(ctx, id)
			_ = e.pack(packing, id)
			end()
		}
	}
}

// pack compresses the checkpoint of a suspended sandbox. It writes the compressed checkpoint to another folder without
// holding the sandbox's lock. It takes the lock only to exchange the two folders, and does so only if the checkpoint has
// not changed.
func (e *Engine) pack(ctx context.Context, id sandbox.ID) (err error) {
	dir, packing := e.layout.Checkpoint(id), e.layout.PackingCheckpoint(id)
	if err := os.RemoveAll(packing); err != nil {
		return err
	}
	if err := os.Mkdir(packing, 0o700); err != nil {
		return err
	}
	// After the exchange, this folder contains the uncompressed checkpoint. If a step fails, it contains an incomplete
	// one.
	defer func() { err = errors.Join(err, os.RemoveAll(packing)) }()
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
	release, err := e.locks.Acquire(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	if now, err := os.ReadFile(filepath.Join(dir, manifestName)); err != nil || !bytes.Equal(now, seal) {
		return err // the checkpoint was removed or replaced in the meantime
	}
	return e.layout.MoveOrExchange(packing, dir)
}
