// Package runsc finds gVisor's program runsc, stores each build of it that a sandbox needs, and calls it.
//
//   - the program: [Find], [Keep], [BuildOf], [Version], [IsPatched] (runsc.go)
//   - calls of it, with the flags that isolate sandboxes: [Caller], [Flags] (call.go)
//   - running without root, in user namespaces: [Rootless], [TryNamespace] (rootless.go)
//   - code that depends on the operating system (linux.go, other.go)
//
// The gVisor engine uses it, and nothing else calls runsc. It has no list of sandboxes, and interprets no output of
// runsc.
package runsc

import (
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/dormouse-sandbox/dormouse/sandboxd/durable"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Find returns the path of the runsc program to use, and a text for people that says why this program was chosen.
// The parameter asked is the configured path, or empty.
func Find(asked string) (path, why string, err error) {
	if asked != "" {
		if _, err := os.Stat(asked); err != nil {
			return "", "", sandbox.Errorf(sandbox.Unavailable, "there is no runsc at the configured path").WithCause(err)
		}
		return asked, "the configured runsc", nil
	}
	if self, err := os.Executable(); err == nil {
		if self, err = filepath.EvalSymlinks(self); err == nil {
			beside := filepath.Join(filepath.Dir(self), "runsc")
			if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
				return beside, "the runsc beside dormouse", nil
			}
		}
	}
	if path, err := exec.LookPath("runsc"); err == nil {
		return path, "the runsc in PATH", nil
	}
	return "", "", sandbox.Errorf(sandbox.Unavailable,
		"the gvisor engine needs gVisor's runsc beside the dormouse program or in PATH: `make build` builds it")
}

// Version returns the version of gVisor's Go module in the program's build information, or "unknown".
func Version(path string) string {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	version := info.Main.Version
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == "gvisor.dev/gvisor" {
			version = m.Version
		}
	}
	return cmp.Or(version, "unknown")
}

// IsPatched reports whether a program was built from third_party/runsc, and not from gVisor's own sources.
func IsPatched(path string) bool {
	info, err := buildinfo.ReadFile(path)
	return err == nil && strings.HasPrefix(info.Main.Path, "github.com/dormouse-sandbox/dormouse/")
}

// BuildOf returns a name for the content of a program. The name is a hash of Go's build id, if the program has one,
// because the build id changes with the content and is fast to read. Otherwise the name is a hash of the whole file.
func BuildOf(path string) (string, error) {
	sum := sha256.New()
	file, err := elf.Open(path)
	if err != nil {
		return "", fmt.Errorf("read runsc: %w", err)
	}
	defer file.Close()
	if note := file.Section(".note.go.buildid"); note != nil {
		_, err = io.Copy(sum, note.Open())
	} else {
		var whole *os.File
		if whole, err = os.Open(path); err == nil {
			_, err = io.Copy(sum, whole)
			err = errors.Join(err, whole.Close())
		}
	}
	return hex.EncodeToString(sum.Sum(nil))[:12], err
}

// Keep stores the program in the engine's folder and returns the name of its build. The program must be stored because
// a sandbox needs the runsc that created it as long as it exists, and a checkpoint needs the runsc that wrote it. The
// stored program is a hard link to a copy that all homes share, whose path the function shared returns. It is not a
// link to the program at path, because that file may be overwritten.
func Keep(l folder.Layout, path string, shared func(build string) string) (build string, err error) {
	build, err = BuildOf(path)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("store runsc: %w", err)
	}
	whole := func(path string) bool {
		have, err := os.Stat(path)
		if err != nil || have.Size() != info.Size() {
			return false
		}
		itsBuild, err := BuildOf(path)
		return err == nil && itsBuild == build
	}
	kept := l.Runsc(build)
	if whole(kept) {
		return build, nil
	}
	share := shared(build)
	if !whole(share) {
		if err := os.MkdirAll(filepath.Dir(share), 0o700); err != nil {
			return "", fmt.Errorf("store runsc: %w", err)
		}
		if err := placeProgram(share, func(making string) error { return copyProgram(path, making) }); err != nil {
			return "", fmt.Errorf("store runsc: %w", err)
		}
	}
	err = placeProgram(kept, func(making string) error {
		if os.Link(share, making) == nil {
			return nil
		}
		return copyProgram(share, making) // a hard link is impossible: the two folders are on different file systems
	})
	if err != nil {
		return "", fmt.Errorf("store runsc: %w", err)
	}
	return build, nil
}

// placeProgram creates the program at path. It calls write to write the program under another name, and then syncs and
// renames it, so that a program at path is always complete.
func placeProgram(path string, write func(making string) error) error {
	dir, err := os.MkdirTemp(filepath.Dir(path), ".making-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	making := filepath.Join(dir, "runsc")
	if err := write(making); err != nil {
		return err
	}
	return durable.Rename(making, path)
}

func copyProgram(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	file, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, source)
	return errors.Join(err, file.Close())
}
