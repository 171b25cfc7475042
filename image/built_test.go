package image

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// TestBuiltImage checks the image that `dormouse image build` made on this machine. The test does not build the image. If
// the image does not exist, the test is skipped, or fails if DORMOUSE_TEST_REQUIRE contains image.
func TestBuiltImage(t *testing.T) {
	if testing.Short() {
		t.Skip("unpacks the whole image, so it is left out with -short")
	}
	dir, err := CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	result, found := (cache{dir: dir}).find()
	if !found {
		absent(t, "needs the image in the cache: run `dormouse image build` with mmdebstrap first")
	}
	t.Logf("%s: %s", result.Ref, megabytes(result.Size))

	t.Run("no file grants rights and no file of the builder is left", func(t *testing.T) {
		checkFiles(t, result.Path)
	})
	t.Run("all packages work without a network", func(t *testing.T) {
		runInside(t, result)
	})
}

func checkFiles(t *testing.T, path string) {
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files := 0
	for r := tar.NewReader(f); ; files++ {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(header.Name, "./")
		if header.Mode&0o6000 != 0 && header.Typeflag == tar.TypeReg {
			t.Errorf("%s has mode %o, want neither setuid nor setgid", name, header.Mode)
		}
		for record := range header.PAXRecords {
			if strings.Contains(record, "security.capability") {
				t.Errorf("%s has file capabilities, want none", name)
			}
		}
		for _, stray := range []string{"image/", "var/lib/apt/lists/deb", "root/.cache/", "usr/share/man/"} {
			if strings.HasPrefix(name, stray) {
				t.Errorf("%s is in the image, want it removed", name)
			}
		}
		switch name {
		case "usr/share/dormouse/packages.json":
			checkInventory(t, r)
		case "etc/resolv.conf":
			if header.Size != 0 {
				t.Error("etc/resolv.conf is not empty, so the builder's file is left")
			}
		}
	}
	t.Logf("%d files", files)
}

func checkInventory(t *testing.T, r io.Reader) {
	var inventory struct {
		Debian  map[string]string `json:"debian"`
		PyPI    map[string]string `json:"pypi"`
		LeftOut []string          `json:"left_out"`
	}
	if err := json.NewDecoder(r).Decode(&inventory); err != nil {
		t.Fatal(err)
	}
	if got, want := len(inventory.Debian), len(Packages()); got != want {
		t.Errorf("packages.json has %d Debian packages, want %d", got, want)
	}
	if got, want := len(inventory.PyPI)+len(inventory.LeftOut), len(Wheels()); got != want {
		t.Errorf("packages.json has %d packages from PyPI, including those left out, want %d", got, want)
	}
}

func runInside(t *testing.T, result Result) {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		absent(t, "needs root on Linux to enter the image without an engine")
	}
	root := t.TempDir()
	if out, err := exec.Command("tar", "-xf", result.Path, "-C", root).CombinedOutput(); err != nil {
		t.Fatalf("unpack: %v\n%s", err, out)
	}
	check, err := os.ReadFile("testdata/check.py")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "check.py"), check, 0o644); err != nil {
		t.Fatal(err)
	}
	extent := "whole"
	if len(result.LeftOut) > 0 {
		extent = "debian"
		t.Logf("tests only Debian's packages, because the image lacks those from PyPI: %s", result.LeftOutReason)
	}
	inside := func(args ...string) string {
		args = append([]string{"--net", "chroot", "--userspec=12345:12345", root, "env", "-i", "HOME=/tmp", "PATH=/usr/bin:/bin"}, args...)
		out, err := exec.Command("unshare", args...).CombinedOutput()
		if err != nil {
			t.Errorf("%v: %v\n%s", args[7:], err, out)
		}
		return strings.TrimSpace(string(out))
	}
	t.Log(inside("python3", "/check.py", extent))
	t.Log(inside("node", "-p", "'node ' + process.version"))
	inside("sh", "-c", "command -v git jq less rg sqlite3 unzip 7z pdftotext file bc tree make zstd ps gawk")
	if out := inside("python3", "-c", "import pandas; print(pandas.__cached__)"); !strings.Contains(out, "__pycache__") {
		t.Errorf("pandas has no compiled files: %s", out)
	}
}

func absent(t *testing.T, why string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("DORMOUSE_TEST_REQUIRE"), ","), "image") {
		t.Fatal(why)
	}
	t.Skip(why)
}
