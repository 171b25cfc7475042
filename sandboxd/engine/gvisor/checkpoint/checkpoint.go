// Package checkpoint writes, verifies and compresses the files of checkpoints.
//
// A checkpoint is a folder with the files that runsc has written, and a manifest. The manifest lists the files, and the
// build, image, guest and CPU features that are needed to restore them.
//
//   - making a checkpoint: [Save] (checkpoint.go); for a fork, [Copy] (copy.go)
//   - whether it can be restored: [Manifest] (manifest.go), with the features of this machine's CPUs (cpu.go)
//   - whether its files are intact: [Manifest.Verify] (files.go)
//   - compressing it in the background: [Packer] (packer.go), with the format in pack.go
//   - how the sandbox of a fallback checkpoint ended: [WriteEnd], [ReadEnd] (checkpoint.go)
//
// The gVisor engine uses it. It does not run runsc, and decides neither when a checkpoint is made nor which one is used.
package checkpoint

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/durable"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// pagesFile is the name of the only large file in a checkpoint: the content of the memory.
const pagesFile = "pages.img"

// Save makes a checkpoint in the folder dir. It calls write, which must create the folder with runsc's files in it, and
// then syncs these files and adds the manifest m. If Save fails, it removes the folder.
func Save(dir string, m Manifest, write func() error) error {
	m.Saved = time.Now().UTC()
	stop := startWriteback(filepath.Join(dir, pagesFile))
	err := write()
	stop()
	if err == nil {
		if err = m.seal(dir); err != nil {
			err = NotSaved(fmt.Errorf("seal the checkpoint: %w", err))
		}
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	return nil
}

// NotSaved returns the error for a checkpoint that could not be written.
func NotSaved(cause error) *sandbox.Error {
	return folder.FailedOnDisk("the sandbox's memory could not be saved, and the sandbox keeps running", cause)
}

// endName is the name of the file that [WriteEnd] writes.
const endName = "ended"

// WriteEnd records how the processes of a sandbox ended, in the checkpoint that the sandbox falls back to. The parameter
// how is a text for people.
func WriteEnd(dir, how string) error {
	return durable.WriteFile(filepath.Join(dir, endName), []byte(how+"\n"), 0o600)
}

// ReadEnd returns the text that [WriteEnd] wrote, and whether WriteEnd was called for this checkpoint.
func ReadEnd(dir string) (how string, ok bool) {
	text, err := os.ReadFile(filepath.Join(dir, endName))
	return strings.TrimSpace(string(text)), err == nil
}

// SavedAt returns the time at which a checkpoint was made. If its manifest is damaged, it returns the modification time of
// the manifest, or 1970 if there is none. Resume reports the damage.
func SavedAt(dir string) time.Time {
	if m, err := Read(dir); err == nil && !m.Saved.IsZero() {
		return m.Saved
	}
	if info, err := os.Stat(filepath.Join(dir, manifestName)); err == nil {
		return info.ModTime()
	}
	return time.Unix(0, 0)
}

// Size returns how many bytes the files of a folder take on disk, and 0 if the folder does not exist.
func Size(dir string) (n int64) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil {
			n += allocated(info)
		}
	}
	return n
}
