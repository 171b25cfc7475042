package copies

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
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

// TestCopiesOfASandboxsMemoryAreRemoved checks which folders Remove removes. The name must be one that containerd
// gives, and only root may have access. The folder must contain a checkpoint of the given container, or the caller must
// recognize the folder as a copy.
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
		isCopy  bool // the caller recognizes the folder as a copy
	}{
		{"a copy", "ctrd-checkpoint1", func(string) {}, true, false},
		{"a copy that an interrupted save left", "ctd-checkpoint1", func(string) {}, true, false},
		{"an incomplete copy", "ctrd-checkpoint2", func(dir string) { must(os.Remove(filepath.Join(dir, "pages.img"))) }, true, false},
		{"a copy without the container's id that the caller recognizes", "ctrd-checkpoint3", func(dir string) { file(dir, "checkpoint.img", []byte("an older gVisor's")) }, true, true},
		{"a checkpoint of another container", "ctrd-checkpoint4", func(dir string) { file(dir, "checkpoint.img", checkpointOf(otherContainer)) }, false, false},
		{"a checkpoint of another container with the id in its memory", "ctrd-checkpoint5", func(dir string) {
			file(dir, "checkpoint.img", append(checkpointOf(otherContainer), checkpointOf(savedContainer)...))
		}, false, false},
		{"another name", "checkpoint6", func(string) {}, false, false},
		{"a longer name", "ctrd-checkpoint7x", func(string) {}, false, false},
		{"a folder of another user", "ctrd-checkpoint8", func(dir string) { must(os.Chown(dir, 65534, 65534)) }, false, false},
		{"a folder that other users can enter", "ctrd-checkpoint9", func(dir string) { must(os.Chmod(dir, 0o755)) }, false, false},
		{"a folder that contains a folder", "ctrd-checkpoint10", func(dir string) { must(os.Mkdir(filepath.Join(dir, "folder"), 0o700)) }, false, false},
		{"a folder that contains a link", "ctrd-checkpoint11", func(dir string) {
			must(os.Rename(filepath.Join(dir, "checkpoint.img"), filepath.Join(dir, "x")), os.Symlink("x", filepath.Join(dir, "checkpoint.img")))
		}, false, false},
		{"a link to a copy", "ctrd-checkpoint12", func(dir string) { must(os.Rename(dir, dir+"-real"), os.Symlink(dir+"-real", dir)) }, false, false},
		{"an empty folder, which containerd may be filling", "ctrd-checkpoint13", func(dir string) {
			must(os.Remove(filepath.Join(dir, "pages.img")), os.Remove(filepath.Join(dir, "checkpoint.img")))
		}, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			place := t.TempDir()
			dir := filepath.Join(place, tt.folder)
			must(os.Mkdir(dir, 0o700))
			file(dir, "checkpoint.img", checkpointOf(savedContainer))
			file(dir, "pages.img", []byte("pages"))
			tt.prepare(dir)
			isCopy := func(dir string) bool { return tt.isCopy && exists(filepath.Join(dir, "pages.img")) }
			if err := Remove(place, savedContainer, isCopy); err != nil {
				t.Errorf("Remove() = %v", err)
			}
			if _, err := os.Lstat(dir); os.IsNotExist(err) != tt.removed {
				t.Errorf("after Remove, Lstat() = %v, want it removed: %v", err, tt.removed)
			}
		})
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestCopiesOfAMissingFolder(t *testing.T) {
	if err := Remove(filepath.Join(t.TempDir(), "none"), savedContainer, func(string) bool { return false }); err != nil {
		t.Errorf("Remove() = %v, want nil", err)
	}
}

// TestCopiesOfARemoteEngineStay checks that Places returns an error for an engine that does not listen on a unix
// socket of this machine. The containerd of such an engine does not see the same files as this process.
func TestCopiesOfARemoteEngineStay(t *testing.T) {
	for _, host := range []string{"tcp://127.0.0.1:1", "unix://" + filepath.Join(t.TempDir(), "none.sock"), "npipe:////./pipe/docker_engine"} {
		if places, err := Places(host); err == nil {
			t.Errorf("Places(%q) = %v, want an error", host, places)
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
