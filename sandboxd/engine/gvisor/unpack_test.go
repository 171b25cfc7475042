package gvisor_test

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor"
)

// tarOf writes an archive; a file's content is its name.
func tarOf(t *testing.T, headers ...tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		h.ModTime = time.Unix(1_600_000_000, 0)
		h.Uid, h.Gid = os.Getuid(), os.Getgid()
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte(h.Name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func TestUnpackKeepsWhatMatters(t *testing.T) {
	dir := t.TempDir()
	err := gvisor.Unpack(dir, tarOf(t,
		tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "./usr/bin/", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "bin", Typeflag: tar.TypeSymlink, Linkname: "usr/bin"},
		tar.Header{Name: "./bin/tool", Typeflag: tar.TypeReg, Mode: 0o4755}, // through the link
		tar.Header{Name: "./usr/bin/same", Typeflag: tar.TypeLink, Linkname: "./usr/bin/tool"},
		tar.Header{Name: "./dev/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3},
		tar.Header{Name: "./etc/resolv.conf", Typeflag: tar.TypeSymlink, Linkname: "/run/resolv.conf"},
		tar.Header{Name: "./closed/", Typeflag: tar.TypeDir, Mode: 0o500},
		tar.Header{Name: "./closed/file", Typeflag: tar.TypeReg, Mode: 0o600},
	))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{
		"usr/bin/tool": 0o755, "closed": 0o500 | fs.ModeDir, "closed/file": 0o600, "etc/resolv.conf": 0o644,
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
			err := gvisor.Unpack(dir, tarOf(t, headers...))
			if err == nil {
				t.Error("it gave no error")
			}
			entries, _ := os.ReadDir(outside)
			other, _ := os.Stat(filepath.Join(outside, "other"))
			if len(entries) != 3 || other.Mode().Perm() != 0o700 {
				t.Errorf("outside are %v, other with mode %v", entries, other.Mode())
			}
		})
	}
}
