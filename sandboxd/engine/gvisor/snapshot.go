package gvisor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/checkpoint"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/rootfs"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

const (
	// maxSnapshots limits the number of snapshots. The engine makes one snapshot for each combination of image,
	// language and limits that is requested. With Dormouse's image a snapshot takes about 100 MB.
	maxSnapshots = 8
	// maxSnapshotAge is the age at which a snapshot is no longer used.
	maxSnapshotAge = sandbox.MaxTTL / 2
)

// makingLife is the TTL of the sandbox that a snapshot is made from. It is longer than the time to make a snapshot. If
// the daemon is killed before the snapshot is complete, the guest ends the sandbox when this TTL is reached. A sandbox
// that starts from the snapshot still has this TTL in its memory, which may have been reached long ago; its guest
// therefore waits until the daemon sends the new expiry.
var makingLife = 5 * time.Minute

// snapshots is the state of an engine's snapshots. On disk a snapshot is the folder of a suspended sandbox under
// another name.
type snapshots struct {
	making sync.Mutex // held while a snapshot is made

	mu     sync.Mutex
	hidden map[sandbox.ID]bool // sandboxes that are becoming snapshots; List does not return them
	// intact holds the checkpoints of snapshots whose files were checked and are intact. The key is the folder of a
	// checkpoint, and the value is the time at which the checkpoint was saved. A snapshot that is made again has the
	// same folder but another time, so that it is checked again.
	intact map[string]time.Time
}

// snapshotOf returns the folder of the snapshot for a spec. Its name is a hash of everything that must be the same in
// the snapshot and in a sandbox that starts from it.
func (e *Engine) snapshotOf(r folder.Record, spec engine.Spec, img rootfs.Image) (string, error) {
	spec.ID, spec.Expires = "", time.Unix(0, 0)
	_, config, err := e.plan(spec, img)
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(struct {
		Record folder.Record
		Config ociSpec
		Limits sandbox.Limits // without cgroups, the configuration does not contain all limits
	}{r, config, spec.Limits})
	if err != nil {
		return "", err
	}
	return filepath.Join(e.layout.Snapshots(), folder.Hash(text)[:24]), nil
}

// Start implements [engine.Snapshotter]. If starting from a snapshot fails, Start removes the snapshot, unless ctx has
// ended, the sandbox exists already, or a disk is full. In these cases the snapshot is not the cause.
func (e *Engine) Start(ctx context.Context, spec engine.Spec) (bool, error) {
	release, err := e.begin(ctx, spec)
	if err != nil {
		return false, err
	}
	defer release()
	img, err := e.images.Find(spec.Image)
	if err != nil {
		return false, nil // the image is missing: the caller then calls Create, which may pull the image
	}
	r, _, err := e.plan(spec, img)
	if err != nil {
		return false, err
	}
	dir, err := e.snapshotOf(r, spec, img)
	if err != nil || !fresh(dir) {
		return false, err
	}
	err = folder.ExplainFullDisk(e.startFromSnapshot(ctx, dir, spec.ID, r), e.images.Dir)
	// The snapshot itself may be the cause: remove it, so that the manager makes a new snapshot.
	if err != nil && ctx.Err() == nil && !errors.Is(err, engine.ErrExists) && !errors.Is(err, folder.ErrFull) {
		err = errors.Join(err, e.layout.Discard(dir))
	}
	return err == nil, err
}

func fresh(dir string) bool {
	info, err := os.Stat(dir)
	return err == nil && time.Since(info.ModTime()).Abs() < maxSnapshotAge
}

// startFromSnapshot creates a sandbox from the snapshot in dir. The caller must hold the sandbox's lock.
func (e *Engine) startFromSnapshot(ctx context.Context, dir string, id sandbox.ID, r folder.Record) error {
	text, err := os.ReadFile(filepath.Join(dir, folder.ConfigFile))
	if err != nil {
		return err
	}
	var config ociSpec
	if err := json.Unmarshal(text, &config); err != nil {
		return err
	}
	config.Linux.CgroupsPath = e.cgroups.Path(string(id))
	saved := filepath.Join(dir, folder.CheckpointDir)
	m, err := checkpoint.Read(saved)
	if err != nil {
		return err
	}
	if err := m.Fits(checkpoint.New(r, text)); err != nil {
		return err
	}
	return e.make(ctx, id, r, config, func() error {
		return e.restoreAndVerify(ctx, id, r.Build, saved, func() error { return e.snapshots.check(m, saved) })
	})
}

// wantPooled requests a pooled sandbox for a sandbox that starts from the snapshot in dir.
func (e *Engine) wantPooled(dir, build string) error {
	var config ociSpec
	if err := folder.ReadJSON(filepath.Join(dir, folder.ConfigFile), &config); err != nil {
		return err
	}
	e.pool.want(kindOf(build, config))
	return nil
}

// check checks that the files of a snapshot's checkpoint are intact. If they are, later calls for the same checkpoint
// return nil without reading the files.
func (s *snapshots) check(m checkpoint.Manifest, dir string) error {
	s.mu.Lock()
	saved, known := s.intact[dir]
	s.mu.Unlock()
	if known && saved.Equal(m.Saved) {
		return nil
	}
	if err := m.Verify(dir); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.intact == nil {
		s.intact = map[string]time.Time{}
	}
	s.intact[dir] = m.Saved
	return nil
}

// Snapshot implements [engine.Snapshotter]. It does not pull the image: it fails if the image is missing.
func (e *Engine) Snapshot(ctx context.Context, spec engine.Spec, ready func(context.Context) error) (err error) {
	e.snapshots.making.Lock()
	defer e.snapshots.making.Unlock()
	img, err := e.images.Find(spec.Image)
	if err != nil {
		return err
	}
	r, _, err := e.plan(spec, img)
	if err != nil {
		return err
	}
	dir, err := e.snapshotOf(r, spec, img)
	if err != nil {
		return err
	}
	defer func() {
		if err == nil { // request a pooled sandbox for the first sandbox that starts from the snapshot
			err = e.wantPooled(dir, r.Build)
		}
	}()
	if fresh(dir) {
		return nil
	}
	e.snapshots.hide(spec.ID, true)
	defer e.snapshots.hide(spec.ID, false)
	spec.Expires = time.Now().Add(makingLife)
	if err := e.Create(ctx, spec); err != nil {
		return err
	}
	defer func() {
		endCtx, cancel := engine.Cleanup(ctx)
		defer cancel()
		err = errors.Join(err, e.Remove(endCtx, spec.ID))
	}()
	if err := ready(ctx); err != nil {
		return fmt.Errorf("make a snapshot: %w", err)
	}
	if err := e.storeSnapshot(ctx, spec.ID, dir); err != nil {
		return fmt.Errorf("make a snapshot: %w", err)
	}
	return nil
}

// storeSnapshot suspends a sandbox and turns its folder into the snapshot at the path dir. It replaces an older
// snapshot at that path. When storeSnapshot returns nil, the sandbox does not exist any more.
func (e *Engine) storeSnapshot(ctx context.Context, id sandbox.ID, dir string) error {
	if err := e.Suspend(ctx, id); err != nil {
		return err
	}
	release, err := e.locks.Acquire(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	if err := os.MkdirAll(e.layout.Snapshots(), 0o700); err != nil {
		return err
	}
	if err := e.replaceDir(e.layout.Sandbox(id), dir); err != nil {
		return err
	}
	now := time.Now()
	return errors.Join(os.Chtimes(dir, now, now), e.tidySnapshots())
}

func (s *snapshots) hide(id sandbox.ID, hidden bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hidden == nil {
		s.hidden = map[sandbox.ID]bool{}
	}
	if hidden {
		s.hidden[id] = true
	} else {
		delete(s.hidden, id)
	}
}

func (s *snapshots) hides(id sandbox.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hidden[id]
}

// tidySnapshots removes the snapshots that are too old, or that were made with another runsc build or guest. If more
// than maxSnapshots remain, it removes the oldest.
func (e *Engine) tidySnapshots() error {
	entries, err := os.ReadDir(e.layout.Snapshots())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	type snapshot struct {
		dir  string
		made time.Time
	}
	var good []snapshot
	for _, entry := range entries {
		dir := filepath.Join(e.layout.Snapshots(), entry.Name())
		var r folder.Record
		info, err := entry.Info()
		if err == nil {
			err = folder.ReadJSON(filepath.Join(dir, folder.RecordFile), &r)
		}
		if err == nil && r.Build == e.build && strings.HasPrefix(r.Guest, e.bundle.ID()+"-") && fresh(dir) {
			good = append(good, snapshot{dir, info.ModTime()})
		} else if err := e.layout.Discard(dir); err != nil {
			return err
		}
	}
	slices.SortFunc(good, func(a, b snapshot) int { return cmp.Compare(b.made.UnixNano(), a.made.UnixNano()) })
	for _, s := range good[min(len(good), maxSnapshots):] {
		if err := e.layout.Discard(s.dir); err != nil {
			return err
		}
	}
	return nil
}
