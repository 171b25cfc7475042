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
//	sandboxes/<id>/          the folder of a sandbox and its OCI bundle; the sandbox exists as long as this folder
//	  config.json            its OCI configuration
//	  record.json            which runsc, guest and image it was created with
//	  process.json           its process, after it has started
//	  spare                  the name of the spare that the sandbox runs in, if any, and the sandbox's id
//	  checkpoint/            its checkpoint; the sandbox is suspended as long as this folder exists
//	  kept/                  its fallback checkpoint, used if the processes of the running sandbox die
//	  checkpoint.making/     a checkpoint that is being written
//	  checkpoint.packing/    a checkpoint that is being compressed
//	  checkpoint.open/       a checkpoint that is being decompressed and restored
//	sandboxes/.trash-*       folders that are being removed
//	spares/<name>/           the OCI bundle of a spare, used or not
//	snapshots/<hash>/        a snapshot: the folder of a sandbox that was suspended to become one
//	runsc/                   runsc's own state
//	bin/runsc-<build>        each runsc that a sandbox was created with
//	guest/<bundle>-<arch>/   the files of each guest
//	etc/                     files that are mounted into /etc of every sandbox
//
// Each file is written under another name first, so that a file with its own name is complete. The files of a sandbox are
// synced only when it is suspended, because a running sandbox does not survive a power cut anyway. After a power cut,
// files that were not synced can be empty, torn or missing, so every reader validates them (damage.go), and only the
// damaged sandbox is lost. All other files are synced when they are written.
type layout struct{ dir string }

func (l layout) sandboxes() string               { return filepath.Join(l.dir, "sandboxes") }
func (l layout) sandboxDir(id sandbox.ID) string { return filepath.Join(l.sandboxes(), string(id)) }
func (l layout) spares() string                  { return filepath.Join(l.dir, "spares") }
func (l layout) runscRoot() string               { return filepath.Join(l.dir, "runsc") }
func (l layout) runsc(build string) string       { return filepath.Join(l.dir, "bin", "runsc-"+build) }
func (l layout) guest(name string) string        { return filepath.Join(l.dir, "guest", name) }
func (l layout) etc() string                     { return filepath.Join(l.dir, "etc") }
func (l layout) record(id sandbox.ID) string     { return filepath.Join(l.sandboxDir(id), "record.json") }
func (l layout) configFile(id sandbox.ID) string {
	return filepath.Join(l.sandboxDir(id), "config.json")
}
func (l layout) process(id sandbox.ID) string { return filepath.Join(l.sandboxDir(id), "process.json") }
func (l layout) spareOf(id sandbox.ID) string { return filepath.Join(l.sandboxDir(id), "spare") }
func (l layout) checkpoint(id sandbox.ID) string {
	return filepath.Join(l.sandboxDir(id), "checkpoint")
}
func (l layout) fallback(id sandbox.ID) string { return filepath.Join(l.sandboxDir(id), "kept") }

// The folders of temporary checkpoints, which are removed when the engine is opened.
func (l layout) makingCheckpoint(id sandbox.ID) string  { return l.checkpoint(id) + ".making" }
func (l layout) packingCheckpoint(id sandbox.ID) string { return l.checkpoint(id) + ".packing" }
func (l layout) openCheckpoint(id sandbox.ID) string    { return l.checkpoint(id) + ".open" }

// etcFiles are the files in /etc that are the same in every sandbox, by name.
var etcFiles = map[string]string{
	"hostname":    hostname + "\n",
	"hosts":       "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.0.1\t" + hostname + "\n",
	"resolv.conf": "nameserver 127.0.0.1\nsearch .\n",
}

// make creates the folders that always exist, and the files of etc.
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

// record lists the files that a sandbox was created with, and that it needs until it is removed.
type record struct {
	Build  string `json:"runsc"` // the build of runsc
	Guest  string `json:"guest"`
	Image  string `json:"image"` // the digest of the image
	Schema int    `json:"schema"`
}

const recordSchema = 1

// find returns a sandbox's record. The error is of kind not_found if the record does not exist, and of kind expired if it
// is damaged.
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

// ids returns the ids of all sandboxes that have a folder.
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

// config returns the OCI configuration in a sandbox's own folder. A sandbox in a spare runs with the configuration in the
// folder of the spare, in which the path of the cgroup differs. The error is of kind expired if the file is missing or
// damaged.
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

// moveOrExchange moves the folder making to the path to, in one step, and syncs the parent folder. If there is a folder
// at that path already, the two folders exchange their names.
func (l layout) moveOrExchange(making, to string) error {
	err := os.Rename(making, to)
	if err != nil && exists(to) {
		err = exchange(making, to)
	}
	// If the file system can't exchange names, the old folder is removed first. A power cut between the two steps then
	// leaves neither folder at the path.
	if errors.Is(err, errors.ErrUnsupported) {
		err = errors.Join(l.discard(to), os.Rename(making, to))
	}
	if err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(to))
}

// discard removes a folder, if it exists. It renames the folder first, so that the folder is never seen half removed.
func (l layout) discard(dir string) error {
	trash, err := l.trash(dir)
	if err != nil || trash == "" {
		return err
	}
	return os.RemoveAll(trash)
}

// trash moves a folder into a new trash folder, and returns the path of the trash folder. The path is empty if the
// folder does not exist, or if it was removed directly because the trash folder could not be created. If the caller
// does not remove the trash folder, the next start of the daemon does.
func (l layout) trash(dir string) (path string, err error) {
	if !exists(dir) {
		return "", nil
	}
	path, err = os.MkdirTemp(l.sandboxes(), ".trash-*")
	if err != nil { // for example, because the disk is full
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
