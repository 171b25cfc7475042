//go:build unix

package tools_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools"
	"github.com/dormouse-sandbox/dormouse/tools/toolstest"
)

// TestAFIFOSwappedInDoesNotHangTheCall checks that no call hangs while another program swaps the path that the call sends
// between a regular file and a FIFO, as fast as it can.
func TestAFIFOSwappedInDoesNotHangTheCall(t *testing.T) {
	dir := t.TempDir()
	file, fifo, path := filepath.Join(dir, "file"), filepath.Join(dir, "fifo"), filepath.Join(dir, "path")
	if err := os.WriteFile(file, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	swap := func(from string) error {
		next := path + ".next"
		if err := os.Link(from, next); err != nil {
			return err
		}
		return os.Rename(next, path)
	}
	if err := swap(file); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var swapper sync.WaitGroup
	swapper.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := swap([]string{fifo, file}[i%2]); err != nil {
				t.Error(err)
				return
			}
		}
	})
	defer swapper.Wait()
	defer close(stop)
	ended := make(chan map[bool]int, 1)
	go func() {
		counts := map[bool]int{}
		for range 2000 {
			text, isError, got := write(t, tools.Config{AllowDirs: []string{dir}}, args{"path": "f", "local_path": path})
			if !isError && string(got) != "content" || isError && !strings.Contains(text, "not a regular file") {
				t.Errorf("got %q and %q, want the file's content or that it is not a regular file", got, text)
			}
			counts[isError]++
		}
		ended <- counts
	}()
	select {
	case counts := <-ended:
		t.Logf("%d times a file, %d times a FIFO", counts[false], counts[true])
	case <-time.After(2 * time.Minute):
		if w, err := os.OpenFile(fifo, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
			w.Close() // ends the call that hangs
		}
		t.Fatal("2000 calls did not end within two minutes: a call hangs")
	}
}

func TestAFIFOAndADeviceAreRefused(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "fifo"), "/dev/zero", "/dev/tty"} {
		text, isError, _ := write(t, tools.Config{AllowDirs: []string{filepath.Dir(path)}}, args{"path": "f", "local_path": path})
		if !isError || !strings.Contains(text, "not a regular file") && !strings.Contains(text, "cannot be read") {
			t.Errorf("%s: %q, want that it is not a regular file", path, text)
		}
	}
}

// changing is a fake daemon that calls change after the first bytes of a file have been read.
type changing struct {
	*double
	change func()
}

func (c changing) WriteFile(ctx context.Context, name string, path sandbox.Path, body io.Reader) (sandbox.File, error) {
	first := make([]byte, 10)
	if _, err := io.ReadFull(body, first); err != nil {
		return sandbox.File{}, err
	}
	c.change()
	return c.double.WriteFile(ctx, name, path, io.MultiReader(strings.NewReader(string(first)), body))
}

func TestAFileThatChangesWhileItIsRead(t *testing.T) {
	for name, c := range map[string]struct {
		change    func(path string) error
		wantWords string
	}{
		"grows": {func(path string) error {
			f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteString("more")
			return err
		}, `"size":1000`},
		"shrinks": {func(path string) error { return os.Truncate(path, 500) }, "became shorter while it was read"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			if err := os.WriteFile(path, []byte(strings.Repeat("x", 1000)), 0o600); err != nil {
				t.Fatal(err)
			}
			d := newDouble()
			list := tools.New(changing{d, func() {
				if err := c.change(path); err != nil {
					t.Error(err)
				}
			}}, tools.Config{AllowDirs: []string{filepath.Dir(path)}})
			call(t, list, "create_sandbox", args{"display_name": "box"})
			r := call(t, list, "write_files", args{"sandbox_id": "box", "files": []args{{"path": "a.txt", "local_path": path}}})
			toolstest.WantText(t, r, r.IsError, c.wantWords)
		})
	}
}
