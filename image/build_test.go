package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeEngine is an Engine that stores images by name in memory.
type fakeEngine struct {
	images map[string]string
	says   string // a line that BuildImage writes to its log
	fail   error
	// other is the image that another process makes after the first call of HasImage; empty: there is no such process.
	other string
}

func (f *fakeEngine) HasImage(_ context.Context, ref string) (bool, error) {
	_, has := f.images[ref]
	if f.other != "" {
		f.images[ref] = f.other
	}
	return has, nil
}

func (f *fakeEngine) ImportImage(_ context.Context, root io.Reader, ref string, _ ...string) error {
	b, err := io.ReadAll(root)
	f.images[ref] = string(b)
	return err
}

func (f *fakeEngine) BuildImage(_ context.Context, source io.Reader, ref string, log io.Writer) error {
	if _, err := io.Copy(io.Discard, source); err != nil {
		return err
	}
	io.WriteString(log, "Step 1/5\nstep: downloading and installing the Debian packages\n"+f.says)
	if f.fail == nil {
		f.images[ref] = "built"
	}
	return f.fail
}

func TestEnsure(t *testing.T) {
	t.Run("leaves an image that the engine has unchanged and prints nothing", func(t *testing.T) {
		engine := &fakeEngine{images: map[string]string{Ref(): "old"}}
		got, output := ensure(t, engine, Options{CacheDir: t.TempDir()})
		if got.Made || got.Ref != Ref() || engine.images[Ref()] != "old" || output != "" {
			t.Errorf("Ensure = %+v and printed %q; the engine has %q, want the unchanged image and no output", got, output, engine.images[Ref()])
		}
	})
	t.Run("leaves an image that another process made during the wait for the lock unchanged", func(t *testing.T) {
		engine := &fakeEngine{images: map[string]string{}, other: "made by another process"}
		got, _ := ensure(t, engine, Options{CacheDir: t.TempDir(), Way: DockerHub})
		if got.Made || got.Ref != Ref() || engine.images[Ref()] != engine.other {
			t.Errorf("Ensure = %+v; the engine has %q, want %q", got, engine.images[Ref()], engine.other)
		}
	})
	t.Run("imports an image from the cache and warns about packages that it lacks", func(t *testing.T) {
		engine := &fakeEngine{images: map[string]string{}}
		c := cache{dir: t.TempDir()}
		finished := filepath.Join(c.dir, "root.tar")
		if err := os.WriteFile(finished, []byte("files"), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := c.keep(finished, Result{LeftOut: []string{"polars"}, LeftOutReason: "no network"}); err != nil {
			t.Fatal(err)
		}
		got, output := ensure(t, engine, Options{CacheDir: c.dir})
		if engine.images[Ref()] != "files" || got.Made || got.Size != 5 {
			t.Errorf("Ensure = %+v, imported %q, want an imported image of 5 bytes, not a new one", got, engine.images[Ref()])
		}
		if !strings.Contains(output, "LEFT OUT") || !strings.Contains(output, "polars") || !strings.Contains(output, "no network") {
			t.Errorf("Ensure printed %q, want a warning with LEFT OUT, polars and no network", output)
		}
	})
	t.Run("the way dockerhub builds in the engine", func(t *testing.T) {
		engine := &fakeEngine{images: map[string]string{}}
		got, output := ensure(t, engine, Options{CacheDir: t.TempDir(), Way: DockerHub})
		if !got.Made || engine.images[Ref()] != "built" || !strings.Contains(output, "downloading and installing") {
			t.Errorf("Ensure = %+v and printed %q, want a built image and the steps of the build", got, output)
		}
	})
	t.Run("the way dockerhub warns about packages that the build left out", func(t *testing.T) {
		engine := &fakeEngine{images: map[string]string{}, says: "\x1b[0mstep: LEFT OUT: the packages from PyPI\n"}
		got, output := ensure(t, engine, Options{CacheDir: t.TempDir(), Way: DockerHub})
		if len(got.LeftOut) != len(Wheels()) || !strings.Contains(output, "WARNING") || !strings.Contains(output, "pyarrow") {
			t.Errorf("Ensure = %+v and printed %q, want a warning and the names of all wheels", got, output)
		}
	})
	t.Run("a failed build names its log and leaves no image", func(t *testing.T) {
		engine := &fakeEngine{images: map[string]string{}, fail: errors.New("no route to the hub")}
		dir := t.TempDir()
		_, err := Ensure(t.Context(), engine, Options{CacheDir: dir, Way: DockerHub}, io.Discard)
		if err == nil || !errors.Is(err, engine.fail) || !strings.Contains(err.Error(), ".log") {
			t.Errorf("Ensure = %v, want an error that wraps %v and names the log", err, engine.fail)
		}
		if tars, _ := filepath.Glob(filepath.Join(dir, "*.tar")); len(tars) > 0 {
			t.Errorf("the failed build left %q in the cache, want no tar", tars)
		}
	})
	t.Run("rejects an unknown way and names the known ones", func(t *testing.T) {
		_, err := Ensure(t.Context(), &fakeEngine{}, Options{CacheDir: t.TempDir(), Way: "magic"}, io.Discard)
		if err == nil || !strings.Contains(err.Error(), "dockerhub") {
			t.Errorf("Ensure = %v, want an error that names dockerhub", err)
		}
	})
}

func TestCache(t *testing.T) {
	t.Run("removes the working folder of a killed build when the lock is free", func(t *testing.T) {
		c := cache{dir: t.TempDir()}
		left := filepath.Join(c.dir, "making-1")
		if err := os.MkdirAll(left, 0o755); err != nil {
			t.Fatal(err)
		}
		unlock, err := c.lock(t.Context(), io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		defer unlock()
		if _, err = os.Stat(left); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s still exists (%v), want it removed", left, err)
		}
	})
	t.Run("a second caller waits for the lock until its context ends", func(t *testing.T) {
		c := cache{dir: t.TempDir()}
		unlock, err := c.lock(t.Context(), io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		defer unlock()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.lock(ctx, io.Discard); !errors.Is(err, context.Canceled) {
			t.Errorf("lock = %v, want context.Canceled", err)
		}
	})
}

func ensure(t *testing.T, engine Engine, opts Options) (Result, string) {
	t.Helper()
	var output bytes.Buffer
	result, err := Ensure(t.Context(), engine, opts, &output)
	if err != nil {
		t.Fatalf("Ensure: %v", err)
	}
	return result, output.String()
}
