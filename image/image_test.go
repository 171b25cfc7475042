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
	t.Run("a comment, a blank line and a remark are no packages", func(t *testing.T) {
		got := parsePackages("# Python\npython3\n\nfoo  # why\n")
		if want := []string{"python3", "foo"}; !slices.Equal(got, want) {
			t.Errorf("parsePackages = %q, want %q", got, want)
		}
	})
	t.Run("each is a package's name, once", func(t *testing.T) {
		name := regexp.MustCompile(`^[a-z0-9][a-z0-9.+-]+$`)
		seen := map[string]bool{}
		for _, p := range Packages() {
			if !name.MatchString(p) || seen[p] {
				t.Errorf("packages.txt: %q is no package's name, or there twice", p)
			}
			seen[p] = true
		}
	})
	t.Run("what other parts count on is there", func(t *testing.T) {
		for _, p := range []string{"python3", "python3-ipython", "python3-matplotlib-inline", "python3-pandas", "nodejs"} {
			if !slices.Contains(Packages(), p) {
				t.Errorf("packages.txt lacks %s", p)
			}
		}
	})
}

func TestWheels(t *testing.T) {
	wheels := Wheels()
	t.Run("every requirement is pinned with one hash or one for each architecture", func(t *testing.T) {
		if n := strings.Count(read("requirements.txt"), "=="); n != len(wheels) || n == 0 {
			t.Errorf("requirements.txt: %d of %d lines parse as pins", len(wheels), n)
		}
		for _, w := range wheels {
			if n := len(w.Hashes); n < 1 || n > 2 {
				t.Errorf("%s==%s has %d hashes, want 1 or 2", w.Name, w.Version, n)
			}
		}
	})
	t.Run("requirements.txt is what pin.py makes of requirements.in", func(t *testing.T) {
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
			t.Errorf("requirements.txt has %q, requirements.in has %q", got, want)
		}
	})
}

func TestHash(t *testing.T) {
	base := hashOf("amd64", read)
	t.Run("twelve hex digits, the same each time", func(t *testing.T) {
		if !regexp.MustCompile(`^[0-9a-f]{12}$`).MatchString(base) || hashOf("amd64", read) != base {
			t.Errorf("hashOf = %q", base)
		}
	})
	t.Run("every input changes it", func(t *testing.T) {
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
	t.Run("the architecture changes it", func(t *testing.T) {
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
				t.Errorf("%s is embedded and not hashed", e.Name())
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
	t.Run("it copies every file that the scripts read, and names no package itself", func(t *testing.T) {
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
	t.Run("the build context is whole, with the mirror asked for", func(t *testing.T) {
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
			t.Errorf("Dockerfile in the context:\n%s", files["Dockerfile"])
		}
		if !strings.Contains(files["Dockerfile"], "ARG REBUILT=") {
			t.Error("a rebuild would come from the engine's cache")
		}
		if files["image/packages.txt"] != read("packages.txt") {
			t.Error("packages.txt in the context is another one")
		}
	})
	t.Run("it sets what an import sets", func(t *testing.T) {
		for _, change := range changes()[:2] {
			if !strings.Contains(stage, strings.TrimPrefix(change, "ENV ")) {
				t.Errorf("sandbox.dockerfile lacks %s", change)
			}
		}
	})
}
