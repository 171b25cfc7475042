package gvisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dormouse-sandbox/dormouse/sandboxd/durable"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// layout is the engine's folder:
//
//	sandboxes/<id>/          one sandbox; it exists while this folder does, and the folder is its OCI bundle
//	  config.json            what runsc is told
//	  record.json            what made it: which runsc, guest and image
//	  process.json           its process, when it has started
//	  spare                  the name of the spare that the sandbox runs in, if any, and the sandbox's id
//	  checkpoint/            its memory: it is suspended while this is there
//	  kept/                  its memory as it was a while ago: what it falls back to if its processes die
//	  checkpoint.making/     a checkpoint that is not whole yet
//	  checkpoint.packing/    one that is being compressed
//	  checkpoint.open/       one that is being decompressed, to be restored
//	sandboxes/.trash-*       being removed
//	spares/<name>/           the bundle of a sandbox that waits for what to restore, or did
//	snapshots/<hash>/        what new sandboxes start from: the folder of one that was suspended for that
//	runsc/                   runsc's own state
//	bin/runsc-<build>        each runsc that a sandbox was made with
//	guest/<bundle>-<arch>/   each guest
//	etc/                     small files of every sandbox's /etc
//
// Each file is written under another name first, so that a file with its own name is complete. The files of a sandbox are synced
// only when it is suspended, because a running sandbox does not survive a power cut anyway. After one its files can be empty, torn
// or missing, so every reader validates them (damage.go), and only the damaged sandbox is lost. All other files are synced when they
// are written.
type layout struct{ dir string }

func (l layout) sandboxes() string           { return filepath.Join(l.dir, "sandboxes") }
func (l layout) box(id sandbox.ID) string    { return filepath.Join(l.sandboxes(), string(id)) }
func (l layout) spares() string              { return filepath.Join(l.dir, "spares") }
func (l layout) runscRoot() string           { return filepath.Join(l.dir, "runsc") }
func (l layout) runsc(build string) string   { return filepath.Join(l.dir, "bin", "runsc-"+build) }
func (l layout) guest(name string) string    { return filepath.Join(l.dir, "guest", name) }
func (l layout) etc() string                 { return filepath.Join(l.dir, "etc") }
func (l layout) record(id sandbox.ID) string { return filepath.Join(l.box(id), "record.json") }
func (l layout) configFile(id sandbox.ID) string {
	return filepath.Join(l.box(id), "config.json")
}
func (l layout) process(id sandbox.ID) string { return filepath.Join(l.box(id), "process.json") }
func (l layout) spareOf(id sandbox.ID) string { return filepath.Join(l.box(id), "spare") }
func (l layout) checkpoint(id sandbox.ID) string {
	return filepath.Join(l.box(id), "checkpoint")
}
func (l layout) kept(id sandbox.ID) string { return filepath.Join(l.box(id), "kept") }

// Checkpoints that are not whole yet, or not any more.
func (l layout) makingCheckpoint(id sandbox.ID) string  { return l.checkpoint(id) + ".making" }
func (l layout) packingCheckpoint(id sandbox.ID) string { return l.checkpoint(id) + ".packing" }
func (l layout) openCheckpoint(id sandbox.ID) string    { return l.checkpoint(id) + ".open" }

// etcFiles are the same in every sandbox.
var etcFiles = map[string]string{
	"hostname":    hostname + "\n",
	"hosts":       "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.0.1\t" + hostname + "\n",
	"resolv.conf": "nameserver 127.0.0.1\nsearch .\n",
}

// make makes the folders that are always there.
func (l layout) make() error {
	for _, dir := range []string{l.dir, l.sandboxes(), l.spares(), l.runscRoot(), filepath.Join(l.dir, "bin"), filepath.Join(l.dir, "guest")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("open gvisor: %w", err)
		}
	}
	if err := errors.Join(os.MkdirAll(l.etc(), 0o755), os.Chmod(l.etc(), 0o755)); err != nil {
		return fmt.Errorf("open gvisor: %w", err)
	}
	for name, text := range etcFiles {
		path := filepath.Join(l.etc(), name)
		if old, err := os.ReadFile(path); err == nil && string(old) == text {
			continue
		}
		if err := durable.WriteFile(path, []byte(text), 0o644); err != nil {
			return fmt.Errorf("open gvisor: %w", err)
		}
	}
	return nil
}

// makeReal creates a folder, if it does not exist, and returns its path without symbolic links.
func makeReal(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("open gvisor: %w", err)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", fmt.Errorf("open gvisor: %w", err)
	}
	return real, nil
}

// record is what a sandbox was made with, and needs as long as it lives.
type record struct {
	Build  string `json:"runsc"` // of runsc
	Guest  string `json:"guest"`
	Image  string `json:"image"` // its digest
	Schema int    `json:"schema"`
}

const recordSchema = 1

// find returns a sandbox's record. The error is not_found if there is no such sandbox, and expired if the record is damaged.
func (l layout) find(id sandbox.ID) (record, error) {
	var r record
	if !sandbox.IsID(string(id)) {
		return r, noSandbox(id)
	}
	err := readJSON(l.record(id), &r)
	if errors.Is(err, fs.ErrNotExist) {
		return r, noSandbox(id)
	}
	if err == nil {
		err = r.validate()
	}
	return r, damaged("record.json", err)
}

// ids are the sandboxes that have a folder.
func (l layout) ids() ([]sandbox.ID, error) {
	entries, err := os.ReadDir(l.sandboxes())
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

// config returns the OCI configuration of a sandbox that runs in no spare. The error is expired if the file is missing or damaged.
func (l layout) config(id sandbox.ID) (config ociSpec, err error) {
	err = readJSON(l.configFile(id), &config)
	if err == nil {
		err = config.validate(id)
	}
	return config, damaged("config.json", err)
}

func (l layout) suspended(id sandbox.ID) bool { return exists(l.checkpoint(id)) }

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// swap gives a folder the name to, in one step. What had that name gets the other.
func (l layout) swap(making, to string) error {
	err := os.Rename(making, to)
	if err != nil && exists(to) {
		err = exchange(making, to)
	}
	if errors.Is(err, errors.ErrUnsupported) { // by the file system: a power cut here takes both
		err = errors.Join(l.discard(to), os.Rename(making, to))
	}
	if err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(to))
}

// discard removes a folder, if it is there: its name goes at once.
func (l layout) discard(dir string) error {
	trash, err := l.trash(dir)
	if err != nil || trash == "" {
		return err
	}
	return os.RemoveAll(trash)
}

// trash takes a folder's name away, if it is there, and returns where it is now. What is there is removed at the next start at the latest.
func (l layout) trash(dir string) (path string, err error) {
	if !exists(dir) {
		return "", nil
	}
	path, err = os.MkdirTemp(l.sandboxes(), ".trash-*")
	if err != nil { // no room for that either
		return "", os.RemoveAll(dir)
	}
	if err := os.Rename(dir, filepath.Join(path, "it")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", errors.Join(err, os.Remove(path))
	}
	return path, nil
}

func readJSON(path string, v any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("read %s: %w: %w", path, errDamaged, err)
	}
	return nil
}

// writeJSON writes a file of a sandbox's folder atomically. It does not sync the file.
func writeJSON(path string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return durable.Replace(path, append(text, '\n'), 0o600)
}
