package image

import (
	"archive/tar"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestPackages(t *testing.T) {
	t.Run("ignores comments, blank lines and remarks", func(t *testing.T) {
		got := parsePackages("# Python\npython3\n\nfoo  # why\n")
		if want := []string{"python3", "foo"}; !slices.Equal(got, want) {
			t.Errorf("parsePackages = %q, want %q", got, want)
		}
	})
	t.Run("each line is a valid package name that occurs once", func(t *testing.T) {
		name := regexp.MustCompile(`^[a-z0-9][a-z0-9.+-]+$`)
		seen := map[string]bool{}
		for _, p := range Packages() {
			if !name.MatchString(p) || seen[p] {
				t.Errorf("packages.txt: %q is not a valid package name, or occurs twice", p)
			}
			seen[p] = true
		}
	})
	t.Run("contains the packages that other parts of Dormouse need", func(t *testing.T) {
		for _, p := range []string{"python3", "python3-ipython", "python3-matplotlib-inline", "python3-pandas", "nodejs"} {
			if !slices.Contains(Packages(), p) {
				t.Errorf("packages.txt lacks %s", p)
			}
		}
	})
}

func TestWheels(t *testing.T) {
	wheels := Wheels()
	t.Run("every requirement is pinned with one hash, or with one for each architecture", func(t *testing.T) {
		if n := strings.Count(read("requirements.txt"), "=="); n != len(wheels) || n == 0 {
			t.Errorf("requirements.txt: %d wheels parsed from %d lines with ==, want the same number", len(wheels), n)
		}
		for _, w := range wheels {
			if n := len(w.Hashes); n < 1 || n > 2 {
				t.Errorf("%s==%s has %d hashes, want 1 or 2", w.Name, w.Version, n)
			}
		}
	})
	t.Run("requirements.txt has the packages of requirements.in", func(t *testing.T) {
		in, err := os.ReadFile("requirements.in")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, w := range wheels {
			got = append(got, w.Name)
		}
		var want []string
		for _, line := range parsePackages(string(in)) {
			want = append(want, regexp.MustCompile(`[<=>]`).Split(line, 2)[0])
		}
		if !slices.Equal(got, want) {
			t.Errorf("requirements.txt has %q, want those of requirements.in, %q; run image/pin.py", got, want)
		}
	})
}

func TestHash(t *testing.T) {
	base := hashOf("amd64", read)
	t.Run("twelve hex digits, the same for each call", func(t *testing.T) {
		if !regexp.MustCompile(`^[0-9a-f]{12}$`).MatchString(base) || hashOf("amd64", read) != base {
			t.Errorf("hashOf = %q", base)
		}
	})
	t.Run("a change to any input changes the hash", func(t *testing.T) {
		for _, changed := range inputs {
			got := hashOf("amd64", func(name string) string {
				if name == changed {
					return read(name) + "\nmore"
				}
				return read(name)
			})
			if got == base {
				t.Errorf("hashOf is the same after a change to %s", changed)
			}
		}
	})
	t.Run("another architecture changes the hash", func(t *testing.T) {
		if hashOf("arm64", read) == base {
			t.Error("hashOf is the same for another architecture")
		}
	})
	t.Run("every embedded file is an input", func(t *testing.T) {
		entries, err := embedded.ReadDir(".")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if !slices.Contains(inputs, e.Name()) {
				t.Errorf("%s is embedded but not part of the hash", e.Name())
			}
		}
	})
}

func TestDockerfile(t *testing.T) {
	stage := read("sandbox.dockerfile")
	t.Run("the top-level Dockerfile has the same stage", func(t *testing.T) {
		top, err := os.ReadFile("../Dockerfile")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(top), stage) {
			t.Error("Dockerfile does not contain image/sandbox.dockerfile: copy it there")
		}
	})
	t.Run("copies every file that the scripts read, and names no package", func(t *testing.T) {
		for _, name := range inputs {
			if name != "sandbox.dockerfile" && !strings.Contains(stage, "image/"+name+" ") {
				t.Errorf("sandbox.dockerfile does not copy %s", name)
			}
		}
		for _, script := range []string{stage, read("install.sh")} {
			if strings.Contains(script, "python3-numpy") || strings.Contains(script, "nodejs") {
				t.Error("a package is named outside packages.txt")
			}
		}
	})
	t.Run("the build context has all files and the requested mirror", func(t *testing.T) {
		source, err := buildContext(Options{Mirror: "http://mirror.example/debian", Rebuild: true})
		if err != nil {
			t.Fatal(err)
		}
		files := map[string]string{}
		for r := tar.NewReader(source); ; {
			header, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			content, _ := io.ReadAll(r)
			files[header.Name] = string(content)
		}
		if !strings.Contains(files["Dockerfile"], "ARG MIRROR=http://mirror.example/debian\n") {
			t.Errorf("the Dockerfile in the build context does not name the mirror:\n%s", files["Dockerfile"])
		}
		if !strings.Contains(files["Dockerfile"], "ARG REBUILT=") {
			t.Error("the Dockerfile has no ARG REBUILT, so a rebuild would use the engine's cache")
		}
		if files["image/packages.txt"] != read("packages.txt") {
			t.Error("packages.txt in the build context differs from the embedded one")
		}
	})
	t.Run("sets the same environment as an import", func(t *testing.T) {
		for _, change := range changes()[:2] {
			if !strings.Contains(stage, strings.TrimPrefix(change, "ENV ")) {
				t.Errorf("sandbox.dockerfile lacks %s", change)
			}
		}
	})
}
