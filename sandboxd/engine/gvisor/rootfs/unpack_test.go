package rootfs_test

import (
	"archive/tar"
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/rootfs"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/rootfs/rootfstest"
)

func TestUnpackKeepsWhatMatters(t *testing.T) {
	dir := t.TempDir()
	err := rootfs.Unpack(dir, rootfstest.Tar(t,
		tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "./usr/bin/", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "bin", Typeflag: tar.TypeSymlink, Linkname: "usr/bin"},
		tar.Header{Name: "./bin/tool", Typeflag: tar.TypeReg, Mode: 0o4755}, // the path contains the link "bin"
		tar.Header{Name: "./usr/bin/same", Typeflag: tar.TypeLink, Linkname: "./usr/bin/tool"},
		tar.Header{Name: "./dev/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3},
		tar.Header{Name: "./etc/resolv.conf", Typeflag: tar.TypeSymlink, Linkname: "/run/resolv.conf"},
		tar.Header{Name: "./closed/", Typeflag: tar.TypeDir, Mode: 0o500},
		tar.Header{Name: "./closed/file", Typeflag: tar.TypeReg, Mode: 0o600},
	))
	if err != nil {
		t.Fatal(err)
	}
	closed := fs.FileMode(0o500)
	// If the user is not root, Unpack gives the owner all permissions for a folder. Without write permission, the user
	// could not remove the files in it.
	if os.Geteuid() != 0 {
		closed = 0o700
	}
	for name, want := range map[string]fs.FileMode{
		"usr/bin/tool": 0o755, "closed": closed | fs.ModeDir, "closed/file": 0o600, "etc/resolv.conf": 0o644,
		"opt/dormouse": 0o755 | fs.ModeDir, "run/dormouse": 0o755 | fs.ModeDir, "workspace": 0o755 | fs.ModeDir,
	} {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil || info.Mode() != want {
			t.Errorf("%s has mode %v, %v, want %v", name, info, err, want)
		}
	}
	tool, _ := os.Stat(filepath.Join(dir, "usr/bin/tool"))
	same, _ := os.Stat(filepath.Join(dir, "usr/bin/same"))
	if !os.SameFile(tool, same) || tool.ModTime().Unix() != 1_600_000_000 {
		t.Errorf("tool %+v and same %+v: want one file, with the archive's time", tool, same)
	}
	if _, err := os.Lstat(filepath.Join(dir, "dev/null")); err == nil {
		t.Error("a device was made")
	}
}

func TestUnpackStaysInside(t *testing.T) {
	for name, headers := range map[string][]tar.Header{
		"through ..":            {{Name: "../out", Typeflag: tar.TypeReg, Mode: 0o644}},
		"through a link up":     {{Name: "up", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "up/out", Typeflag: tar.TypeReg, Mode: 0o644}},
		"through a root's link": {{Name: "abs", Typeflag: tar.TypeSymlink, Linkname: "OUTSIDE"}, {Name: "abs/out", Typeflag: tar.TypeReg, Mode: 0o644}},
		"a hard link from out":  {{Name: "x", Typeflag: tar.TypeLink, Linkname: "../secret"}},
		"a folder's mode":       {{Name: "up", Typeflag: tar.TypeSymlink, Linkname: "../other"}, {Name: "up", Typeflag: tar.TypeDir, Mode: 0o777}},
	} {
		t.Run(name, func(t *testing.T) {
			outside := t.TempDir()
			dir := filepath.Join(outside, "root")
			for _, d := range []string{dir, filepath.Join(outside, "other")} {
				if err := os.Mkdir(d, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
				t.Fatal(err)
			}
			for i := range headers {
				if headers[i].Linkname == "OUTSIDE" {
					headers[i].Linkname = outside
				}
			}
			if err := rootfs.Unpack(dir, rootfstest.Tar(t, headers...)); err != nil {
				// Unpack may refuse the archive, or unpack it with links resolved inside the image.
				t.Logf("refused: %v", err)
			}
			entries, _ := os.ReadDir(outside)
			other, _ := os.Stat(filepath.Join(outside, "other"))
			if len(entries) != 3 || other.Mode().Perm() != 0o700 {
				t.Errorf("outside are %v, other with mode %v", entries, other.Mode())
			}
		})
	}
}

// TestUnpackLayers checks that layers are applied in the same way as by other container engines.
func TestUnpackLayers(t *testing.T) {
	file := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644} }
	folder := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o750} }
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	for _, test := range []struct {
		name   string
		layers [][]tar.Header
		there  []string
		gone   []string
	}{
		{"a file is hidden", [][]tar.Header{{file("a/x"), file("a/y")}, {file("a/.wh.x")}}, []string{"a/y"}, []string{"a/x", "a/.wh.x"}},
		{"a folder is hidden", [][]tar.Header{{file("a/b/c")}, {file("a/.wh.b")}}, []string{"a"}, []string{"a/b"}},
		{"all of a folder is hidden", [][]tar.Header{{file("a/x"), file("a/b/y")}, {file("a/new"), file("a/b/new"), file("a/.wh..wh..opq")}},
			[]string{"a/new", "a/b/new"}, []string{"a/x", "a/b/y", "a/.wh..wh..opq"}},
		{"a layer does not hide its own", [][]tar.Header{{file("a/x")}, {file("a/x"), file("a/.wh.x")}}, []string{"a/x"}, nil},
		{"what is not there is hidden", [][]tar.Header{{file("a")}, {file("b/.wh.c")}}, []string{"a", "b"}, nil},
		{"a folder becomes a file", [][]tar.Header{{file("a/x")}, {file("a")}}, []string{"a"}, []string{"a/x"}},
		{"a file becomes a folder", [][]tar.Header{{file("a")}, {folder("a"), file("a/x")}}, []string{"a/x"}, nil},
		{"through an absolute link", [][]tar.Header{{folder("run"), link("var/run", "/run")}, {file("var/run/x")}}, []string{"run/x"}, nil},
		{"through a link above the root", [][]tar.Header{{link("up", "../../../run")}, {file("up/x")}}, []string{"run/x"}, nil},
		{"a link is hidden, and not what it leads to", [][]tar.Header{{file("b/x"), link("a", "b")}, {file(".wh.a")}}, []string{"b/x"}, []string{"a"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			var layers []io.Reader
			for _, headers := range test.layers {
				layers = append(layers, rootfstest.Tar(t, headers...))
			}
			if err := rootfs.Unpack(dir, layers...); err != nil {
				t.Fatal(err)
			}
			for _, name := range test.there {
				if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
					t.Error(err)
				}
			}
			for _, name := range test.gone {
				if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
					t.Errorf("%s is there", name)
				}
			}
		})
	}
	for name, headers := range map[string][]tar.Header{
		"a whiteout of all":    {file(".wh...")},
		"a whiteout of itself": {file("a/.wh..")},
		"links without an end": {link("a", "b"), link("b", "a"), file("a/x")},
		"a file as a folder":   {file("a"), file("a/x")},
	} {
		t.Run(name, func(t *testing.T) {
			if err := rootfs.Unpack(t.TempDir(), rootfstest.Tar(t, headers...)); err == nil {
				t.Error("it gave no error")
			}
		})
	}
}

// FuzzUnpackStaysInside checks that no layer, whatever it contains, changes a file outside of the folder that it is
// unpacked to.
func FuzzUnpackStaysInside(f *testing.F) {
	f.Add("up", "..", "up/out", byte(tar.TypeReg), "x", "../secret", byte(tar.TypeLink))
	f.Add("a", "/", "a/../../out", byte(tar.TypeDir), "a/.wh..wh..opq", "", byte(tar.TypeReg))
	f.Add(".wh...", "b", "b", byte(tar.TypeSymlink), "b/c", "../../other", byte(tar.TypeSymlink))
	f.Fuzz(func(t *testing.T, link, target, second string, kind byte, third, linked string, other byte) {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range []tar.Header{
			{Name: link, Typeflag: tar.TypeSymlink, Linkname: target},
			{Name: second, Typeflag: kind, Linkname: target, Mode: 0o4777},
			{Name: third, Typeflag: other, Linkname: linked, Mode: 0o777},
			{Name: link + "/" + third, Typeflag: tar.TypeReg, Mode: 0o777},
		} {
			h.Uid, h.Gid = os.Getuid(), os.Getgid()
			if w.WriteHeader(&h) != nil {
				return
			}
		}
		outside := t.TempDir()
		dir := filepath.Join(outside, "root")
		for _, d := range []string{dir, filepath.Join(outside, "other")} {
			if err := os.Mkdir(d, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		secret := filepath.Join(outside, "secret")
		if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
		whole := b.String()
		_ = rootfs.Unpack(dir, strings.NewReader(whole), strings.NewReader(whole)) // Unpack may refuse the archive
		entries, _ := os.ReadDir(outside)
		inside, _ := os.ReadDir(filepath.Join(outside, "other"))
		info, err := os.Stat(secret)
		if len(entries) != 3 || len(inside) != 0 || err != nil || info.Mode() != 0o600 || info.Size() != 6 {
			t.Errorf("outside are %v, %v, and %v, %v", entries, inside, info, err)
		}
		_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.Type()&(fs.ModeDevice|fs.ModeNamedPipe) != 0 {
				t.Errorf("%s is a %v", path, entry.Type())
			}
			info, err := os.Lstat(path)
			if err == nil && info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
				t.Errorf("%s has mode %v", path, info.Mode())
			}
			return nil
		})
	})
}
