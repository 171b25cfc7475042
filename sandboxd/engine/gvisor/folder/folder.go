// Package folder describes the files that the gVisor engine keeps in its folder: their paths, the record of each
// sandbox, and how folders are moved and removed so that a crash leaves no incomplete folder.
//
//   - the paths of all files: [Layout] (folder.go)
//   - what a sandbox was created with: [Record] (record.go)
//   - the container of runsc that a sandbox runs in, which may be a pooled sandbox: [Instance] (instance.go)
//   - moving and removing folders: [Layout.MoveOrExchange], [Layout.Discard], [Layout.Trash] (move.go)
//   - errors for damaged files (damage.go) and for a full disk (full.go)
//
// The engine and its packages rootfs, checkpoint, runsc and cgroup use it. It starts no processes and holds no locks: the
// engine decides when a file may be changed.
package folder

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dormouse-sandbox/dormouse/sandboxd/durable"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Layout is the engine's folder:
//
//	sandboxes/<id>/          the folder of a sandbox and its OCI bundle; the sandbox exists as long as this folder
//	  config.json            its OCI configuration
//	  record.json            which runsc, guest and image it was created with
//	  process.json           its process, after it has started
//	  spare                  the name of the pooled sandbox that the sandbox runs in, if any, and the sandbox's id
//	  checkpoint/            its checkpoint; the sandbox is suspended as long as this folder exists
//	  kept/                  its fallback checkpoint, used if the processes of the running sandbox die
//	  checkpoint.making/     a checkpoint that is being written
//	  checkpoint.packing/    a checkpoint that is being compressed
//	  checkpoint.open/       a checkpoint that is being decompressed and restored
//	sandboxes/.trash-*       folders that are being removed
//	spares/<name>/           the OCI bundle of a pooled sandbox, used or not
//	snapshots/<hash>/        a snapshot: the folder of a sandbox that was suspended to become one
//	runsc/                   runsc's own state
//	bin/runsc-<build>        each runsc that a sandbox was created with
//	guest/<bundle>-<arch>/   the files of each guest
//	etc/                     files that are mounted into /etc of every sandbox
//
// Each file is written under a temporary name and then renamed, so that a file with its final name is complete. The files
// of a sandbox are synced only when a checkpoint of it is saved, because a sandbox without a checkpoint does not survive a
// power cut anyway. After a power cut, files that were not synced can be empty, torn or missing, so every reader validates
// them (damage.go), and only the damaged sandbox is lost. All other files are synced when they are written.
type Layout struct {
	Dir string // an absolute path
}

func (l Layout) Sandboxes() string               { return filepath.Join(l.Dir, "sandboxes") }
func (l Layout) Sandbox(id sandbox.ID) string    { return filepath.Join(l.Sandboxes(), string(id)) }
func (l Layout) Pool() string                    { return filepath.Join(l.Dir, "spares") }
func (l Layout) Snapshots() string               { return filepath.Join(l.Dir, "snapshots") }
func (l Layout) RunscRoot() string               { return filepath.Join(l.Dir, "runsc") }
func (l Layout) Runsc(build string) string       { return filepath.Join(l.Dir, "bin", "runsc-"+build) }
func (l Layout) Guest(name string) string        { return filepath.Join(l.Dir, "guest", name) }
func (l Layout) Etc() string                     { return filepath.Join(l.Dir, "etc") }
func (l Layout) Record(id sandbox.ID) string     { return filepath.Join(l.Sandbox(id), RecordFile) }
func (l Layout) Config(id sandbox.ID) string     { return filepath.Join(l.Sandbox(id), ConfigFile) }
func (l Layout) Process(id sandbox.ID) string    { return filepath.Join(l.Sandbox(id), "process.json") }
func (l Layout) Pooled(id sandbox.ID) string     { return filepath.Join(l.Sandbox(id), "spare") }
func (l Layout) Checkpoint(id sandbox.ID) string { return filepath.Join(l.Sandbox(id), CheckpointDir) }
func (l Layout) Fallback(id sandbox.ID) string   { return filepath.Join(l.Sandbox(id), "kept") }

// The folders of temporary checkpoints, which are removed when the engine is opened.
func (l Layout) MakingCheckpoint(id sandbox.ID) string  { return l.Checkpoint(id) + ".making" }
func (l Layout) PackingCheckpoint(id sandbox.ID) string { return l.Checkpoint(id) + ".packing" }
func (l Layout) OpenCheckpoint(id sandbox.ID) string    { return l.Checkpoint(id) + ".open" }

// Names in the folder of a sandbox, and so in the folder of a snapshot.
const (
	RecordFile    = "record.json"
	ConfigFile    = "config.json"
	CheckpointDir = "checkpoint"
)

// Hostname is the host name of every sandbox.
const Hostname = "sandbox"

// EtcFiles are the files in /etc that are the same in every sandbox, by name.
var EtcFiles = map[string]string{
	"hostname":    Hostname + "\n",
	"hosts":       "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.0.1\t" + Hostname + "\n",
	"resolv.conf": "nameserver 127.0.0.1\nsearch .\n",
}

// Make creates the folders that always exist, and the files in etc.
func (l Layout) Make() error {
	for _, dir := range []string{l.Dir, l.Sandboxes(), l.Pool(), l.RunscRoot(), filepath.Join(l.Dir, "bin"), filepath.Join(l.Dir, "guest")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("open gvisor: %w", err)
		}
	}
	if err := errors.Join(os.MkdirAll(l.Etc(), 0o755), os.Chmod(l.Etc(), 0o755)); err != nil {
		return fmt.Errorf("open gvisor: %w", err)
	}
	for name, text := range EtcFiles {
		path := filepath.Join(l.Etc(), name)
		if old, err := os.ReadFile(path); err == nil && string(old) == text {
			continue
		}
		if err := durable.WriteFile(path, []byte(text), 0o644); err != nil {
			return fmt.Errorf("open gvisor: %w", err)
		}
	}
	return nil
}

// IDs returns the ids of all sandboxes that have a folder.
func (l Layout) IDs() ([]sandbox.ID, error) {
	entries, err := os.ReadDir(l.Sandboxes())
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	var ids []sandbox.ID
	for _, entry := range entries {
		if sandbox.IsID(entry.Name()) {
			ids = append(ids, sandbox.ID(entry.Name()))
		}
	}
	return ids, nil
}

// Suspended reports whether a sandbox has a checkpoint, and so is suspended.
func (l Layout) Suspended(id sandbox.ID) bool { return Exists(l.Checkpoint(id)) }

// Exists reports whether there is a file or folder at a path. It does not follow a link.
func Exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
