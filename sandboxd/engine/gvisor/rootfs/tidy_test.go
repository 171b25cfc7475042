package rootfs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestUnusedImagesAreRemoved checks that Tidy removes an image only if it is certain that no home needs it. Homes share
// images, but have no other connection.
func TestUnusedImagesAreRemoved(t *testing.T) {
	i := Open(t.TempDir())
	defer i.Close()
	now := time.Now()
	add := func(digit, ref string, age time.Duration) string {
		t.Helper()
		digest := strings.Repeat(digit, 64)
		if err := os.MkdirAll(i.Root(digest), 0o700); err != nil {
			t.Fatal(err)
		}
		if ref != "" {
			if err := i.name(Image{Ref: ref, Digest: digest}); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(i.refFile(ref), now.Add(-age), now.Add(-age)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chtimes(filepath.Join(i.Dir, digest), now.Add(-age), now.Add(-age)); err != nil {
			t.Fatal(err)
		}
		return digest
	}
	const day = 24 * time.Hour
	want := map[string]bool{
		add("1", "host:5000/own:1", 90*day): false,
		add("2", "host:5000/own:2", 80*day): true,  // a sandbox uses this image
		add("3", "host:5000/own:3", 70*day): true,  // the latest image of this name
		add("4", "other", 100*day):          true,  // the latest image of this name, until image 7 is added
		add("5", "", 40*day):                false, // must be removed: it is old and has no name
		add("6", "", 20*day):                true,
		add("7", "other@sha256:aa", 95*day): true,
	}
	want[strings.Repeat("4", 64)] = false // image 7 is the latest image of this name
	add("8", "host:5000/own:0", 85*day)
	i.MarkUsed(strings.Repeat("8", 64)) // image 8 is old, but was used just now
	want[strings.Repeat("8", 64)] = true
	if err := os.Mkdir(filepath.Join(i.Dir, "making-x"), 0o700); err != nil {
		t.Fatal(err)
	}
	home, gone := folder.Layout{Dir: t.TempDir()}, folder.Layout{Dir: filepath.Join(t.TempDir(), "gone")}
	if err := home.Make(); err != nil {
		t.Fatal(err)
	}
	for _, l := range []folder.Layout{home, gone} {
		if err := i.RegisterHome(l); err != nil {
			t.Fatal(err)
		}
	}
	id := sandbox.NewID()
	if err := os.Mkdir(home.Sandbox(id), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := folder.WriteJSON(home.Record(id), folder.Record{Schema: folder.RecordSchema, Build: strings.Repeat("b", 12), Guest: "guest-amd64", Image: strings.Repeat("2", 64)}); err != nil {
		t.Fatal(err)
	}
	if err := i.Tidy(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	for digest, stays := range want {
		if folder.Exists(i.Root(digest)) != stays {
			t.Errorf("%s… is there: %v, want %v", digest[:3], !stays, stays)
		}
	}
	if folder.Exists(i.refFile("host:5000/own:1")) || !folder.Exists(i.refFile("host:5000/own:2")) {
		t.Error("the name of what is gone is there, or that of what is not is gone")
	}
	if folder.Exists(filepath.Join(i.Dir, "making-x")) {
		t.Error("what was left half unpacked is there")
	}
	if homes, _ := filepath.Glob(filepath.Join(i.Dir, "homes", "*")); len(homes) != 1 {
		t.Errorf("the homes are %q, want the one that is there", homes)
	}

	// If the record of a sandbox can't be read, it is unknown which image the sandbox needs, so no image is removed.
	if err := os.WriteFile(home.Record(id), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	old := add("9", "host:5000/own:9", 95*day)
	if err := i.Tidy(t.Context(), now); err == nil || !folder.Exists(i.Root(old)) {
		t.Errorf("Tidy = %v, and the image is there: %v, want an error and all kept", err, folder.Exists(i.Root(old)))
	}
}
