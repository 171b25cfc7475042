package docker

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	savedContainer = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	otherContainer = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"
)

// checkpointOf returns the beginning of a file as gVisor writes it for a checkpoint of a container.
func checkpointOf(container string) []byte {
	header, err := json.Marshal(map[string]string{"compression": "none",
		"container_specs": `{"x":{"mounts":[{"source":"/run/containerd/moby/` + container + `/proc"}]}}`})
	if err != nil {
		panic(err)
	}
	return append(binary.BigEndian.AppendUint64([]byte("gVisorSF"), uint64(len(header))), append(header, "memory"...)...)
}

// TestCopiesOfASandboxsMemoryAreRemoved checks that removeCopies removes a folder only if containerd could have given
// it its name, if it is accessible to root alone, and if it contains a checkpoint of the given container or with the
// given checksum.
func TestCopiesOfASandboxsMemoryAreRemoved(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: copies of memory belong to root, and the tests do not run as root")
	}
	must := func(errs ...error) {
		t.Helper()
		for _, err := range errs {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	file := func(dir, name string, content []byte) {
		t.Helper()
		must(os.WriteFile(filepath.Join(dir, name), content, 0o644))
	}
	for _, tt := range []struct {
		name    string
		folder  string // the folder's name
		prepare func(dir string)
		removed bool
	}{
		{"a copy", "ctrd-checkpoint1", func(string) {}, true},
		{"a copy that a save left", "ctd-checkpoint1", func(string) {}, true},
		{"a copy that was cut short", "ctrd-checkpoint2", func(dir string) { must(os.Remove(filepath.Join(dir, "pages.img"))) }, true},
		{"a copy that only the sum tells", "ctrd-checkpoint3", func(dir string) { file(dir, "checkpoint.img", []byte("an older gVisor's")) }, true},
		{"another container's", "ctrd-checkpoint4", func(dir string) { file(dir, "checkpoint.img", checkpointOf(otherContainer)) }, false},
		{"another container's that has the id in its memory", "ctrd-checkpoint5", func(dir string) {
			file(dir, "checkpoint.img", append(checkpointOf(otherContainer), checkpointOf(savedContainer)...))
		}, false},
		{"another name", "checkpoint6", func(string) {}, false},
		{"a longer name", "ctrd-checkpoint7x", func(string) {}, false},
		{"another user's", "ctrd-checkpoint8", func(dir string) { must(os.Chown(dir, 65534, 65534)) }, false},
		{"one that others may enter", "ctrd-checkpoint9", func(dir string) { must(os.Chmod(dir, 0o755)) }, false},
		{"one with a folder in it", "ctrd-checkpoint10", func(dir string) { must(os.Mkdir(filepath.Join(dir, "folder"), 0o700)) }, false},
		{"one with a link in it", "ctrd-checkpoint11", func(dir string) {
			must(os.Rename(filepath.Join(dir, "checkpoint.img"), filepath.Join(dir, "x")), os.Symlink("x", filepath.Join(dir, "checkpoint.img")))
		}, false},
		{"a link to a copy", "ctrd-checkpoint12", func(dir string) { must(os.Rename(dir, dir+"-real"), os.Symlink(dir+"-real", dir)) }, false},
		{"an empty one, which may be in use", "ctrd-checkpoint13", func(dir string) {
			must(os.Remove(filepath.Join(dir, "pages.img")), os.Remove(filepath.Join(dir, "checkpoint.img")))
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			place := t.TempDir()
			dir := filepath.Join(place, tt.folder)
			must(os.Mkdir(dir, 0o700))
			file(dir, "checkpoint.img", checkpointOf(savedContainer))
			file(dir, "pages.img", []byte("pages"))
			tt.prepare(dir)
			sum := ""
			if strings.Contains(tt.name, "sum") {
				var err error
				sum, err = sumOf(dir)
				must(err)
			}
			if err := removeCopies(place, savedContainer, sum); err != nil {
				t.Errorf("removeCopies() = %v", err)
			}
			if _, err := os.Lstat(dir); os.IsNotExist(err) != tt.removed {
				t.Errorf("after removeCopies, Lstat() = %v, want it removed: %v", err, tt.removed)
			}
		})
	}
}

func TestCopiesOfAMissingFolder(t *testing.T) {
	if err := removeCopies(filepath.Join(t.TempDir(), "none"), savedContainer, ""); err != nil {
		t.Errorf("removeCopies() = %v, want nil", err)
	}
}

// TestCopiesOfARemoteEngineStay checks that copyPlaces returns an error for an engine that does not listen on a unix
// socket of this machine. The containerd of such an engine does not see the same files as this process.
func TestCopiesOfARemoteEngineStay(t *testing.T) {
	for _, host := range []string{"tcp://127.0.0.1:1", "unix://" + filepath.Join(t.TempDir(), "none.sock"), "npipe:////./pipe/docker_engine"} {
		if places, err := copyPlaces(host); err == nil {
			t.Errorf("copyPlaces(%q) = %v, want an error", host, places)
		}
	}
}

func FuzzCheckpointNames(f *testing.F) {
	f.Add(checkpointOf(savedContainer))
	f.Add(checkpointOf(otherContainer))
	f.Add([]byte("gVisorSF\xff\xff\xff\xff\xff\xff\xff\xff{}"))
	f.Add([]byte("gVisorSF"))
	f.Fuzz(func(t *testing.T, content []byte) {
		if checkpointNames(bytes.NewReader(content), savedContainer) && !bytes.Contains(content, []byte(savedContainer)) &&
			!bytes.Contains(content, []byte(`\u`)) {
			t.Errorf("checkpointNames(%q) = true for %s, want false", content, savedContainer)
		}
		if checkpointNames(bytes.NewReader(content), "") {
			t.Errorf("checkpointNames(%q) = true for an empty id, want false", content)
		}
	})
}
