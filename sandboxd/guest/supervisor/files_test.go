//go:build linux

package supervisor_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

func TestFiles(t *testing.T) {
	t.Parallel()
	b := start(t, with("workspace", "157286400"))
	read := func(path sandbox.Path, offset, length int64) (string, int64, error) {
		body, whole, err := b.ReadFile(t.Context(), path, offset, length)
		if err != nil {
			return "", 0, err
		}
		defer body.Close()
		p, err := io.ReadAll(body)
		return string(p), whole, err
	}

	t.Run("a file of 100 MiB is written and read unchanged", func(t *testing.T) {
		b.t = t
		if _, err := b.WriteFile(t.Context(), "large", io.LimitReader(zeros{}, sandbox.MaxFileBytes+1)); sandbox.KindOf(err) != sandbox.Invalid {
			t.Errorf("WriteFile() of a file above the limit = %v, want invalid", err)
		}
		data := make([]byte, 100<<20)
		rand.Read(data)
		began := time.Now()
		f, err := b.WriteFile(t.Context(), "deep/er/ä %2F?#.bin", bytes.NewReader(data))
		sum := sha256.Sum256(data)
		if err != nil || f.Size != int64(len(data)) || f.SHA256 != hex.EncodeToString(sum[:]) {
			t.Fatalf("WriteFile() = %+v, %v, want the size and the sum of the data", f, err)
		}
		wrote := time.Since(began)
		began = time.Now()
		got, whole, err := read("deep/er/ä %2F?#.bin", 0, -1)
		if err != nil || whole != int64(len(data)) || got != string(data) {
			t.Fatalf("ReadFile() = %d of %d bytes, %v, want the data", len(got), whole, err)
		}
		t.Logf("100 MiB: put %s, get %s", wrote, time.Since(began))
		if got, whole, err = read("deep/er/ä %2F?#.bin", 1000, 10); err != nil || whole != 100<<20 || got != string(data[1000:1010]) {
			t.Errorf("ReadFile(1000, 10) = %q of %d bytes, %v, want %q of %d", got, whole, err, data[1000:1010], 100<<20)
		}
		if e := b.python("import os; st = os.stat('deep/er/ä %2F?#.bin'); st.st_uid == os.getuid(), oct(st.st_mode)"); result(e) != "(True, '0o100644')" {
			t.Errorf("owned by the kernels' user, mode = %s, want True and 0644", result(e))
		}
		if _, err := b.WriteFile(t.Context(), "full", io.LimitReader(zeros{}, sandbox.MaxFileBytes)); sandbox.KindOf(err) != sandbox.Limit || !strings.Contains(err.Error(), "150 MiB") {
			t.Errorf("WriteFile() into a full workspace = %v, want limit and its size", err)
		}
		b.python("os.remove('deep/er/ä %2F?#.bin')")
		list, err := b.ListFiles(t.Context())
		if err != nil || len(list.Files) != 0 || len(list.Omitted) != 0 {
			t.Errorf("ListFiles() = %+v, %v, want no files", list, err)
		}
	})
	t.Run("only regular files can be read", func(t *testing.T) {
		b.t = t
		b.python(`
import os, socket
os.mkdir('dir'); os.mkfifo('fifo'); os.symlink('/etc/passwd', 'link'); os.symlink('/etc', 'etc'); os.symlink('..', 'up')
socket.socket(socket.AF_UNIX).bind('socket')
open('closed', 'w').write('x'); os.chmod('closed', 0)
`)
		for path, kind := range map[sandbox.Path]sandbox.Kind{
			"dir": sandbox.Invalid, "fifo": sandbox.Invalid, "link": sandbox.Invalid, "socket": sandbox.Invalid, "closed": sandbox.Invalid,
			"etc/passwd": sandbox.Invalid, "up/etc/passwd": sandbox.Invalid, "missing": sandbox.NotFound, "closed/x": sandbox.Invalid,
		} {
			if got, _, err := read(path, 0, -1); sandbox.KindOf(err) != kind {
				t.Errorf("ReadFile(%s) = %q, %v, want %s", path, got, err, kind)
			}
		}
		for path, next := range map[sandbox.Path]string{"dir": "list it with code", "link": "name the file that it leads to", "fifo": "only code can use it"} {
			if _, _, err := read(path, 0, -1); err == nil || !strings.Contains(err.Error(), next) {
				t.Errorf("ReadFile(%s) = %v, want an error with %q", path, err, next)
			}
		}
		for _, path := range []sandbox.Path{"etc/new", "up/new", "dir", "closed/x"} {
			if _, err := b.WriteFile(t.Context(), path, strings.NewReader("x")); sandbox.KindOf(err) != sandbox.Invalid {
				t.Errorf("WriteFile(%s) = %v, want invalid", path, err)
			}
		}
		if _, err := b.WriteFile(t.Context(), "link", strings.NewReader("mine")); err != nil {
			t.Errorf("WriteFile() over a link = %v", err)
		}
		if got, _, err := read("link", 0, -1); err != nil || got != "mine" {
			t.Errorf("ReadFile() of the file that replaced a link = %q, %v, want mine", got, err)
		}
		if _, _, err := read("link", 5, -1); sandbox.KindOf(err) != sandbox.Invalid {
			t.Errorf("ReadFile() from beyond the end = %v, want invalid", err)
		}
		list, err := b.ListFiles(t.Context())
		if err != nil || len(list.Files) != 2 || len(list.Omitted) != 4 {
			t.Errorf("ListFiles() = %+v, %v, want 2 files and 4 omitted ones", list, err)
		}
	})
	t.Run("a file that changes size does not break the connection", func(t *testing.T) {
		b.t = t
		id := b.begin("import os\nf = open('breathing', 'wb')\nprint('on', flush=True)\nwhile True:\n    f.write(b'x' * (1 << 20)); f.flush(); f.truncate(0); f.seek(0)", 60)
		for range 50 {
			_, _, _ = read("breathing", 0, -1)
		}
		if _, err := b.Interrupt(t.Context(), id); err != nil {
			t.Errorf("Interrupt() after the reads: %v", err)
		}
		b.python("f.close(); os.remove('breathing')")
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestReplacedFolderNeverLeadsOutOfTheWorkspace checks that no file outside of the workspace is read or written while
// code replaces a folder with a link to a folder outside, and back, as fast as it can.
func TestReplacedFolderNeverLeadsOutOfTheWorkspace(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.python("import os, shutil; os.makedirs('a/d'); open('a/d/f', 'w').write('inside'); os.makedirs('/tmp/out'); open('/tmp/out/f', 'w').write('outside')")
	id := b.begin(`
def restore():
    while not os.path.isfile('a/d/f') or os.path.islink('a/d'):
        try:
            if os.path.islink('a/d'): os.unlink('a/d')
            if os.path.exists('a/x'):
                shutil.rmtree('a/d', ignore_errors=True) # a write made it
                os.rename('a/x', 'a/d')
        except OSError:
            pass
print('on', flush=True)
while True:
    try:
        os.rename('a/d', 'a/x'); os.symlink('/tmp/out', 'a/d'); os.unlink('a/d'); os.rename('a/x', 'a/d')
    except OSError:
        restore()
`, 600)
	inside := 0
	for range 500 {
		body, _, err := b.ReadFile(t.Context(), "a/d/f", 0, -1)
		if err == nil {
			p, _ := io.ReadAll(body)
			body.Close()
			if string(p) != "inside" {
				t.Fatalf("ReadFile() = %q, want inside", p)
			}
			inside++
		}
		_, _ = b.WriteFile(t.Context(), "a/d/new", strings.NewReader("new"))
		_, _ = b.ListFiles(t.Context())
	}
	t.Logf("%d of 500 reads found the folder in its place", inside)
	if e, err := b.Interrupt(t.Context(), id); err != nil || e.State != sandbox.ExecInterrupted || inside == 0 {
		t.Fatalf("%d reads found the folder in its place, Interrupt() = %s, %+v, %v, want some, and code that ran until the interrupt", inside, e.State, e.Error, err)
	}
	if e := b.python("os.listdir('/tmp/out')"); result(e) != "['f']" {
		t.Errorf("the folder outside contains %s, want f alone", result(e))
	}
}

func TestFilesOfAnExecution(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.python("open('old', 'w').write('x'); open('other', 'w').write('x')")
	e := b.python(`
import os
open('old', 'a').write('y'); os.makedirs('sub/__pycache__'); open('sub/new', 'w').write('new'); open('sub/__pycache__/x', 'w').write('x')
os.symlink('/etc/passwd', 'link'); os.mkfifo('pipe'); open('secret', 'w').write('x'); os.chmod('secret', 0)
open(b'bad\xff', 'w').write('x'); open('same', 'w').write('x'); os.remove('same')
`)
	want(t, e, sandbox.ExecSucceeded)
	var got []string
	for _, f := range e.Files {
		got = append(got, fmt.Sprintf("%s %d %s", f.Path, f.Size, f.SHA256[:8]))
	}
	if s := strings.Join(got, ", "); s != "old 2 769a4e6d, sub/new 3 11507a0e" {
		t.Errorf("files = %s, want old and sub/new", s)
	}
	var omitted []string
	for _, f := range e.FilesOmitted {
		omitted = append(omitted, f.Path+": "+f.Reason)
	}
	if s := strings.Join(omitted, "\n"); s != `"bad\xff": its name can't be used in a request
link: it is a symbolic link
pipe: it is a named pipe
secret: the sandbox's user can't read it` {
		t.Errorf("omitted files:\n%s\nwant bad, link, pipe and secret, each with its reason", s)
	}
	if e = b.python("1"); e.Files != nil || e.FilesOmitted != nil {
		t.Errorf("files = %+v, omitted %+v, want none, because nothing was written", e.Files, e.FilesOmitted)
	}
	e = b.python("for i in range(150): open(f'many{i}', 'w').write('x')")
	if len(e.Files) != 100 || len(e.FilesOmitted) != 21 || e.FilesOmitted[20].Reason != "and 30 more" {
		t.Errorf("%d files, omitted %+v, want 100 and 21", len(e.Files), e.FilesOmitted)
	}
	e = b.python("p = 'deep'\nfor i in range(20): p += '/d'\nos.makedirs(p); open(p + '/f', 'w').write('x')")
	if len(e.Files) != 0 || len(e.FilesOmitted) != 1 || !strings.Contains(e.FilesOmitted[0].Reason, "too deep") {
		t.Errorf("files = %+v, omitted %+v, want none and the deep folder", e.Files, e.FilesOmitted)
	}
	e = b.python("os.mkdir('many')\nfor i in range(20100): os.mknod(f'many/{i}')")
	if n := len(e.FilesOmitted); n == 0 || len(e.Files) != 100 {
		t.Errorf("%d files, omitted %+v, want 100 and some", len(e.Files), e.FilesOmitted)
	}
	var whole bool
	for _, f := range e.FilesOmitted {
		whole = whole || strings.Contains(f.Reason, "more than 20000")
	}
	if !whole {
		t.Errorf("omitted files = %+v, want one entry for all beyond 20,000", e.FilesOmitted)
	}
}
