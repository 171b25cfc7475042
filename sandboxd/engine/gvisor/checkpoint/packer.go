package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/durable"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// DefaultPackAfter is how long a sandbox is suspended before its checkpoint is compressed, to about a quarter of
// its size. A sandbox that is resumed before that time resumes faster, because its checkpoint need not be decompressed.
const DefaultPackAfter = time.Minute

// Packer compresses the checkpoints of suspended sandboxes, one at a time. It gives up when another operation needs the
// sandbox ([Packer.Abandon]). It is safe for concurrent use.
type Packer struct {
	layout  folder.Layout
	acquire func(context.Context, sandbox.ID) (release func(), err error)

	mu     sync.Mutex
	at     sandbox.ID // the sandbox whose checkpoint is being compressed, or empty
	cancel context.CancelFunc
}

// NewPacker returns a packer for the sandboxes in a folder. The function acquire acquires the lock of a sandbox.
func NewPacker(layout folder.Layout, acquire func(context.Context, sandbox.ID) (release func(), err error)) *Packer {
	return &Packer{layout: layout, acquire: acquire}
}

// Run compresses the checkpoints of sandboxes that have been suspended for at least the given duration, until ctx ends.
func (p *Packer) Run(ctx context.Context, after time.Duration) {
	tick := time.NewTicker(max(after/4, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			p.packAll(ctx, after)
		}
	}
}

// begin records the sandbox whose checkpoint is being compressed. The context that it returns is cancelled by
// [Packer.Abandon]. The caller must call end.
func (p *Packer) begin(ctx context.Context, id sandbox.ID) (_ context.Context, end func()) {
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

// Abandon cancels the compression of a sandbox's checkpoint, if it is in progress. It does not wait until the
// compression has ended.
func (p *Packer) Abandon(id sandbox.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at == id && p.cancel != nil {
		p.cancel()
	}
}

// packAll compresses each uncompressed checkpoint that is at least as old as the given duration. If that fails, because
// the disk is full for example, the uncompressed checkpoint stays usable, and the next call tries again.
func (p *Packer) packAll(ctx context.Context, after time.Duration) {
	ids, err := p.layout.IDs()
	if err != nil {
		return
	}
	for _, id := range ids {
		// Only an uncompressed checkpoint has a pages file. This check is cheap, and most checkpoints are compressed.
		info, err := os.Stat(filepath.Join(p.layout.Checkpoint(id), pagesFile))
		if ctx.Err() == nil && err == nil && time.Since(info.ModTime()) >= after {
			packing, end := p.begin(ctx, id)
			_ = p.pack(packing, id)
			end()
		}
	}
}

// pack compresses the checkpoint of a suspended sandbox. It writes the compressed checkpoint to another folder without
// holding the sandbox's lock. It takes the lock only to exchange the two folders, and does so only if the checkpoint has
// not changed.
func (p *Packer) pack(ctx context.Context, id sandbox.ID) (err error) {
	dir, packing := p.layout.Checkpoint(id), p.layout.PackingCheckpoint(id)
	if err := os.RemoveAll(packing); err != nil {
		return err
	}
	if err := os.Mkdir(packing, 0o700); err != nil {
		return err
	}
	// After the exchange, this folder contains the uncompressed checkpoint. If a step before the exchange fails, the
	// folder contains a compressed checkpoint that is incomplete or not used.
	defer func() { err = errors.Join(err, os.RemoveAll(packing)) }()
	seal, err := os.ReadFile(filepath.Join(dir, manifestName))
	if err != nil {
		return err
	}
	m, err := Read(dir)
	if err != nil || m.Packed() {
		return err
	}
	packed, err := m.pack(ctx, dir, packing)
	if err != nil {
		return err
	}
	if err := writeManifest(packing, packed); err != nil {
		return err
	}
	if text, err := os.ReadFile(filepath.Join(dir, endName)); err == nil {
		if err := durable.WriteFile(filepath.Join(packing, endName), text, 0o600); err != nil {
			return err
		}
	}
	release, err := p.acquire(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	if now, err := os.ReadFile(filepath.Join(dir, manifestName)); err != nil || !bytes.Equal(now, seal) {
		return err // the checkpoint was removed or replaced in the meantime
	}
	return p.layout.MoveOrExchange(packing, dir)
}
