package enginetest

import (
	"bytes"
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// posture compares how the isolation looks from inside a sandbox with reviewed golden files.
func (s *suite) posture(t *testing.T) {
	b := s.create(t, s.spec())
	info := s.engine.Info()
	variant := info.Runtime // the runtime determines the isolation, whichever Docker engine calls the runtime
	if info.Name != "docker" {
		variant = info.Name
	}
	if slices.ContainsFunc(info.Warnings, func(w string) bool { return strings.Contains(w, "seccomp in gVisor") }) {
		variant += "-unfiltered" // the Docker engine does not call runsc with --oci-seccomp, so the system call filter has no effect
	}
	for _, role := range []string{"guest", "kernel"} {
		t.Run(role, func(t *testing.T) {
			got := b.mustRequest(t, "GET", "/posture/"+role, nil)
			Golden(t, fmt.Sprintf("posture-%s-%s.golden.json", variant, role), []byte(got))
		})
	}
}

//go:embed testdata/works.py testdata/works.js
var programFiles embed.FS

// programs runs real programs, which would fail if the allowlist of system calls were too small.
func (s *suite) programs(t *testing.T) {
	for _, program := range []struct{ path, file, missing string }{
		{"/usr/bin/python3", "works.py", "No module named"},
		{"/usr/bin/node", "works.js", "Cannot find module"},
	} {
		t.Run(program.file, func(t *testing.T) {
			spec := s.spec()
			spec.Limits.MemoryBytes = 2 << 30
			b := s.create(t, spec)
			text, err := programFiles.ReadFile("testdata/" + program.file)
			if err != nil {
				t.Fatal(err)
			}
			b.mustRequest(t, "PUT", "/workspace/"+program.file, bytes.NewReader(text))
			got := b.mustRequest(t, "POST", fmt.Sprintf("/run?program=%s&arg=%[1]s&arg=/workspace/%s", program.path, program.file), nil)
			if strings.Contains(got, "no such file") || strings.Contains(got, program.missing) {
				t.Skipf("the image %s can't run the program: %s", s.image, got)
			}
			if !strings.HasSuffix(got, "all works\nended well") {
				t.Errorf("the program printed:\n%s\nwant \"all works\" at the end", got)
			}
		})
	}
}

// Golden fails the test unless got equals the content of the file with this name in the folder testdata of the package under
// test. The folder of that package is the working directory of the test. If DORMOUSE_UPDATE_GOLDEN is 1, Golden writes got to
// the file instead.
func Golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("DORMOUSE_UPDATE_GOLDEN") == "1" {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("there is no golden file: %v; DORMOUSE_UPDATE_GOLDEN=1 writes it", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (-want +got; if nothing follows, only the order of lines differs):\n%s", name,
			difference(strings.Split(string(want), "\n"), strings.Split(string(got), "\n")))
	}
}

// difference returns the lines that only want or only got contains, which is enough for sorted JSON.
func difference(want, got []string) string {
	var diff strings.Builder
	count := map[string]int{}
	for _, line := range got {
		count[line]++
	}
	for _, line := range want {
		if count[line]--; count[line] < 0 {
			fmt.Fprintf(&diff, "-%s\n", line)
		}
	}
	for _, line := range got {
		if count[line]--; count[line] >= 0 {
			fmt.Fprintf(&diff, "+%s\n", line)
		}
	}
	return diff.String()
}
