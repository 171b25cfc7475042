//go:build unix

package e2e_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMainJob tests the main use of Dormouse on each platform: one sandbox, from its creation to its deletion.
func TestMainJob(t *testing.T) {
	t.Parallel()
	for _, p := range platforms(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := newHome(t, p.env...).connect(t)
			id := s.create(args{"display_name": "main job"})

			t.Run("get_sandbox reports the runtime of the platform", func(t *testing.T) {
				box := s.with(t).ok("get_sandbox", args{"sandbox_id": id})
				if got := box.Structured["runtime"]; got != p.runtime {
					t.Errorf("runtime = %v, want %s", got, p.runtime)
				}
			})
			t.Run("variables persist between calls", func(t *testing.T) {
				s := s.with(t)
				s.run(id, "x = 40")
				s.run(id, "x + 2", "42")
			})
			t.Run("JavaScript has a kernel of its own in the same sandbox", func(t *testing.T) {
				s := s.with(t)
				s.exec(args{"sandbox_id": id, "language": "javascript", "code": "const x = 'js'; let y = await Promise.resolve(6)"})
				s.exec(args{"sandbox_id": id, "language": "javascript", "code": "const x = y * 7; ({x})"}, "{ x: 42 }")
				s.run(id, "x", "40")
			})
			t.Run("a figure is returned as a PNG without savefig", func(t *testing.T) {
				r := s.with(t).run(id, "import matplotlib.pyplot as plt\nplt.plot([1, 4, 9])")
				if len(r.Images) != 1 {
					t.Fatalf("%d images, want 1: %s", len(r.Images), r.Text)
				}
				if _, err := png.Decode(bytes.NewReader(r.Images[0])); err != nil {
					t.Error(err)
				}
			})
			t.Run("a data frame is returned as plain text", func(t *testing.T) {
				s.with(t).run(id, "import pandas as pd\npd.DataFrame({'a': [1, 2], 'b': ['x', 'y']})", "   a  b\n0  1  x\n1  2  y")
			})
			t.Run("an exception is a result with a traceback", func(t *testing.T) {
				r := s.with(t).run(id, "def f():\n    return 1 / 0\nf()", "ZeroDivisionError", "return 1 / 0")
				if strings.Contains(r.Text, "kernel.py") || strings.Contains(r.Text, "/opt/dormouse") {
					t.Errorf("the traceback contains frames of the kernel program:\n%s", r.Text)
				}
			})
			t.Run("subprocesses' output is captured in order", func(t *testing.T) {
				r := s.with(t).run(id, "import subprocess\nprint('one')\nsubprocess.run(['echo', 'two'])\nprint('three')\n!echo four", "one\ntwo\nthree\nfour")
				_ = r
			})
			t.Run("input() is refused with a clear error", func(t *testing.T) {
				s.with(t).run(id, "input('name? ')", "Error")
			})
			t.Run("code reads files that were written and writes files that can be read", func(t *testing.T) {
				s := s.with(t)
				s.ok("write_files", args{"sandbox_id": id, "files": []args{{"path": "in/data.csv", "text": "a,b\n1,2\n"}}})
				s.run(id, "open('out.txt', 'w').write(open('in/data.csv').read().upper())", "out.txt")
				s.contains(s.ok("read_file", args{"sandbox_id": id, "path": "out.txt"}).Text, "A,B\n1,2")
			})
			t.Run("read_file returns an image file as an image", func(t *testing.T) {
				s := s.with(t)
				s.run(id, "from PIL import Image\nImage.new('RGB', (3000, 20), 'red').save('red.png')", "red.png")
				r := s.ok("read_file", args{"sandbox_id": id, "path": "red.png"})
				if len(r.Images) != 1 {
					t.Fatalf("%d images, want 1: %s", len(r.Images), r.Text)
				}
				if cfg, err := png.DecodeConfig(bytes.NewReader(r.Images[0])); err != nil || cfg.Width > 1568 {
					t.Errorf("the image is %d pixels wide (%v), want at most 1568", cfg.Width, err)
				}
			})
			// TestHugeMessages transfers files of 100 MiB, on the default engine. The client of this test would need 20 s of CPU
			// time for that.
			t.Run("a file of 20 MiB is written and read unchanged", func(t *testing.T) {
				const size = 20 << 20
				s := s.with(t)
				data := make([]byte, size)
				rand.Read(data)
				sum := sha256.Sum256(data)
				want := hex.EncodeToString(sum[:])
				r := s.ok("write_files", args{"sandbox_id": id, "files": []args{{"path": "big.bin", "base64": base64.StdEncoding.EncodeToString(data)}}})
				s.contains(r.Text, want)
				s.run(id, "import hashlib\nhashlib.sha256(open('big.bin', 'rb').read()).hexdigest()", want)
				out := s.ok("read_file", args{"sandbox_id": id, "path": "big.bin", "length": size})
				if !bytes.Equal(out.Blob, data) {
					t.Errorf("read_file returned %d bytes that differ from the %d bytes written", len(out.Blob), len(data))
				}
				s.run(id, "import os\nos.remove('big.bin')")
			})
			t.Run("there is no network", func(t *testing.T) {
				s := s.with(t)
				s.run(id, "import socket\ntry:\n    socket.create_connection(('1.1.1.1', 53), timeout=5)\n    print('CONNECTED')\nexcept OSError as e:\n    print('refused', e)", "refused")
				s.run(id, "import socket\ntry:\n    print(socket.gethostbyname('example.com'))\nexcept OSError as e:\n    print('no names', e)", "no names")
			})
			t.Run("code that runs longer than wait_seconds can be followed by its execution id", func(t *testing.T) {
				s := s.with(t)
				r := s.exec(args{"sandbox_id": id, "wait_seconds": 1, "code": "import time\nfor i in range(4):\n    print('tick', i, flush=True)\n    time.sleep(.7)\n'finished'"}, "running", "tick 0")
				exec := executionID(t, r.Text)
				s.contains(s.ok("get_execution", args{"execution_id": exec, "wait_seconds": 20}).Text, "tick 3", "finished", "succeeded")
			})
			t.Run("an interrupt stops the code and keeps the variables", func(t *testing.T) {
				s := s.with(t)
				s.run(id, "kept = 'kept'")
				r := s.exec(args{"sandbox_id": id, "wait_seconds": 1, "code": "while True: pass"}, "running")
				s.contains(s.ok("interrupt_execution", args{"execution_id": executionID(t, r.Text)}).Text, "kept")
				s.run(id, "kept", "kept")
			})
			t.Run("a timeout interrupts the code and keeps the variables", func(t *testing.T) {
				s := s.with(t)
				s.exec(args{"sandbox_id": id, "timeout_seconds": 1, "code": "import time; time.sleep(600)"}, "timeout_seconds", "Variables are kept")
				s.run(id, "kept", "kept")
			})
			t.Run("a timeout ends the processes of a shell and keeps the variables", func(t *testing.T) {
				s := s.with(t)
				s.exec(args{"sandbox_id": id, "timeout_seconds": 1, "code": "import subprocess; subprocess.run('(sleep 60 & sleep 60 & wait) | cat', shell=True)"}, "timeout_seconds", "Variables are kept")
				s.run(id, "kept + '!'", "kept!")
				s.run(id, "subprocess.run(['pgrep', 'sleep'], capture_output=True, text=True).stdout", "''")
			})
			t.Run("a retry with the same request_id returns the first execution", func(t *testing.T) {
				s := s.with(t)
				s.run(id, "runs = 0")
				a := args{"sandbox_id": id, "request_id": "retry-1", "code": "runs += 1\nruns"}
				first, second := s.exec(a), s.exec(a)
				if executionID(t, first.Text) != executionID(t, second.Text) {
					t.Errorf("the retry has another execution id:\n%s\n%s", first.Text, second.Text)
				}
				s.run(id, "runs", "1")
			})
			t.Run("get_execution reads the part of the output that an answer leaves out", func(t *testing.T) {
				s := s.with(t)
				r := s.run(id, "for i in range(20000): print('line', i)", "line 0\n", "line 19999", "get_execution")
				if len(r.Text) > 14_000 {
					t.Errorf("the answer has %d bytes, want about 10,000", len(r.Text))
				}
				exec := executionID(t, r.Text)
				s.contains(s.ok("get_execution", args{"execution_id": exec, "offset": 100_000}).Text, "line ")
			})
			t.Run("execute_code without a sandbox_id creates a sandbox and returns its id", func(t *testing.T) {
				s := s.with(t)
				r := s.exec(args{"code": "'fresh'"}, "fresh", "sbx_")
				at := strings.Index(r.Text, "sbx_")
				s.ok("delete_sandbox", args{"sandbox_id": r.Text[at : at+30]})
			})
			t.Run("a display name can be used instead of an id", func(t *testing.T) {
				s.with(t).exec(args{"sandbox_id": "main job", "code": "x"}, "40")
			})
			t.Run("a deleted sandbox is neither usable nor listed", func(t *testing.T) {
				s := s.with(t)
				s.ok("delete_sandbox", args{"sandbox_id": id})
				s.refused("execute_code", args{"sandbox_id": id, "code": "1"})
				if list := s.ok("list_sandboxes", nil); strings.Contains(list.Text, id) {
					t.Errorf("list_sandboxes still lists the deleted sandbox:\n%s", list.Text)
				}
			})
		})
	}
}

// TestLocalPath checks that local_path of write_files can read only files in folders that the user has allowed with
// --allow-dir.
func TestLocalPath(t *testing.T) {
	t.Parallel()
	needsEngine(t)
	allowed, other := t.TempDir(), t.TempDir()
	for _, f := range []string{filepath.Join(allowed, "in.txt"), filepath.Join(other, "secret.txt")} {
		if err := os.WriteFile(f, []byte("content of "+filepath.Base(f)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(other, "secret.txt"), filepath.Join(allowed, "link.txt")); err != nil {
		t.Fatal(err)
	}
	h := newHome(t)
	s := h.connect(t, "--allow-dir", allowed)
	id := s.create(nil)
	s.ok("write_files", args{"sandbox_id": id, "files": []args{{"path": "a.txt", "local_path": filepath.Join(allowed, "in.txt")}}})
	s.run(id, "open('a.txt').read()", "content of in.txt")
	for _, path := range []string{filepath.Join(other, "secret.txt"), filepath.Join(allowed, "link.txt"), filepath.Join(allowed, "..", filepath.Base(other), "secret.txt"), "/etc/passwd", "in.txt"} {
		s.refused("write_files", args{"sandbox_id": id, "files": []args{{"path": "b.txt", "local_path": path}}}, "local_path")
	}
	h.connect(t).refused("write_files", args{"sandbox_id": id, "files": []args{{"path": "c.txt", "local_path": filepath.Join(allowed, "in.txt")}}}, "--allow-dir")
}

func executionID(t *testing.T, text string) string {
	t.Helper()
	const n = len("exec_") + 26
	at := strings.Index(text, "exec_")
	if at < 0 || at+n > len(text) {
		t.Fatalf("the answer contains no execution id:\n%s", text)
	}
	return text[at : at+n]
}
