// Package bundle contains the files of the guest that are injected into containers, for each architecture: the
// program that is PID 1, and the kernels that it starts. It implements engine.Bundle.
package bundle

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"sync"
	"testing/fstest"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/kernels"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// The pattern also matches README.md: a pattern that matches no file does not compile, and the guest's programs are
// missing before make build.
//
//go:embed [Rg]*
var programs embed.FS

// architectures lists the architectures that have a guest.
var architectures = []string{"amd64", "arm64"}

// Bundle gives access to the files that were embedded when the daemon was built. Its zero value is ready to use.
type Bundle struct{}

// ID returns 12 hex digits that change when any file changes.
func (Bundle) ID() string { return id() }

// Files returns the files for an architecture: guest, the executable; kernels/, the kernels' programs; and build-id,
// which contains the [Bundle.ID].
func (Bundle) Files(arch string) (fs.FS, error) {
	guest, err := programs.ReadFile(programName(arch))
	if err != nil {
		if _, any := programs.ReadFile(programName(architectures[0])); any != nil {
			return nil, sandbox.Errorf(sandbox.Unavailable, "this dormouse was built without the guest: run make build")
		}
		return nil, sandbox.Errorf(sandbox.Unavailable, "there is no guest for the architecture %q", sandbox.Quote(arch))
	}
	files := fstest.MapFS{ // package fstest is not only for tests: MapFS is a file system in memory
		"guest":    {Data: guest, Mode: 0o755},
		"build-id": {Data: []byte(id() + "\n"), Mode: 0o644},
	}
	if err := eachKernelFile(func(name string, data []byte) {
		files["kernels/"+name] = &fstest.MapFile{Data: data, Mode: 0o644}
	}); err != nil {
		return nil, err
	}
	return files, nil
}

func programName(arch string) string { return "guest-linux-" + arch }

var id = sync.OnceValue(func() string {
	sum := sha256.New()
	add := func(name string, data []byte) {
		fmt.Fprintf(sum, "%q %d\n", name, len(data))
		sum.Write(data)
	}
	for _, arch := range architectures {
		if data, err := programs.ReadFile(programName(arch)); err == nil {
			add(programName(arch), data)
		}
	}
	// eachKernelFile can't fail here, because embedded files can always be read.
	if err := eachKernelFile(add); err != nil {
		panic(err)
	}
	return hex.EncodeToString(sum.Sum(nil))[:12]
})

// eachKernelFile calls f with the kernels' files in the order of their names.
func eachKernelFile(f func(name string, data []byte)) error {
	return fs.WalkDir(kernels.Files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(kernels.Files, name)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		f(name, data)
		return nil
	})
}
