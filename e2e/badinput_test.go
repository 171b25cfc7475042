//go:build unix

package e2e_test

import (
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
)

// kernelFate is whether the Python kernel must survive a test case of TestBadInput.
type kernelFate int

const (
	survives kernelFate = iota
	dies
	mayDie // depends on the platform and on which process runs into a limit first
)

// forkBombs is held during a fork bomb. Several of them at once on different platforms would slow each other down for minutes.
var forkBombs sync.Mutex

// TestBadInput checks that bad input gets a clear answer and breaks nothing. After each test case the next call must work. A
// kernel that survives must have its variables and its kernel_epoch. A kernel that died must have lost its variables, and its
// kernel_epoch must have grown.
func TestBadInput(t *testing.T) {
	for i, p := range platforms(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := newHome(t, p.env...).connect(t)
			id := s.create(args{"memory_mb": 1024})
			// Only the first platform prints 1 GB. The guest cuts output to its limit before the output passes through the engine,
			// so 100 MB, which also exceed the limit, are enough on the others.
			output := 1000
			if i > 0 {
				output = 100
			}

			for _, c := range []struct {
				name    string
				args    args
				refused bool     // the answer must be a tool error, not a result
				words   []string // the answer must contain these words
				kernel  kernelFate
			}{
				{name: "empty code", args: args{"code": " \n"}, refused: true, words: []string{"empty"}},
				{name: "10 MB of code", args: args{"code": "x = 1\n" + strings.Repeat("#", 10_000_000)}, refused: true, words: []string{"limit", "write_files"}},
				{name: "a NUL byte in code", args: args{"code": "x = '\x00'"}, refused: true, words: []string{"NUL"}},
				{name: "a syntax error", args: args{"code": "def f(:\n  pass"}, words: []string{"SyntaxError"}},
				{name: "an unknown language", args: args{"code": "1", "language": "cobol"}, refused: true, words: []string{"python", "javascript"}},
				{name: "timeout 0", args: args{"code": "1", "timeout_seconds": 0}, refused: true, words: []string{"timeout_seconds"}},
				{name: "timeout -1", args: args{"code": "1", "timeout_seconds": -1}, refused: true, words: []string{"timeout_seconds"}},
				{name: "timeout 10^9", args: args{"code": "1", "timeout_seconds": 1_000_000_000}, refused: true, words: []string{"86400"}},
				{name: "a misspelt parameter", args: args{"code": "1", "timeout": 5}, refused: true, words: []string{"did you mean", "timeout_seconds"}},
				{name: "a number as a string", args: args{"code": "6 * 7", "timeout_seconds": "30"}, words: []string{"42"}},
				{name: "an infinite loop", args: args{"code": "while True: pass", "timeout_seconds": 1}, words: []string{"timeout_seconds"}},
				{name: "os._exit", args: args{"code": "import os; print('last words', flush=True); os._exit(3)"}, words: []string{"last words", "exit", "3", "lost"}, kernel: dies},
				{name: "kill -9 of its own kernel", args: args{"code": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"}, words: []string{"SIGKILL", "lost"}, kernel: dies},
				{name: "a segmentation fault", args: args{"code": "import ctypes; ctypes.string_at(0)"}, words: []string{"SIGSEGV", "lost"}, kernel: dies},
				{name: "a fork bomb", args: args{"code": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", "timeout_seconds": 3}, kernel: mayDie},
				{name: "a fork bomb that leaves its session", args: args{"code": "import os\nwhile True:\n    try:\n        if os.fork() == 0: os.setsid()\n    except OSError: pass", "timeout_seconds": 3}, kernel: mayDie},
				{name: "a full disk", args: args{"code": "with open('fill', 'wb') as f:\n    while True: f.write(bytes(1 << 20))"}, words: []string{"Error"}},
				{name: "deleting the file that filled the disk", args: args{"code": "import os; os.remove('fill')"}},
				{name: fmt.Sprintf("%d MB of output", output), args: args{"code": fmt.Sprintf("import sys\nfor i in range(%d): sys.stdout.write('x' * 999_999 + '\\n')", output), "timeout_seconds": 120, "wait_seconds": 120}, words: []string{"succeeded", "bytes", "were not stored"}},
				{name: "output that is not UTF-8", args: args{"code": "import os; os.write(1, b'\\xff\\xfe\\x1b[31m ok')"}, words: []string{"ok"}},
				{name: "JavaScript allocations until memory is used up", args: args{"language": "javascript", "code": "const hog = []; while (true) hog.push(new Array(1e6).fill(1.5))"}, words: []string{"memory", "heap", "lost"}},
			} {
				t.Run(c.name, func(t *testing.T) {
					s := s.with(t)
					if strings.Contains(c.name, "fork bomb") {
						forkBombs.Lock()
						defer forkBombs.Unlock()
					}
					before := epochOf(t, s.run(id, "kept = 'still here'").Text)
					c.args["sandbox_id"] = id
					if c.refused {
						s.refused("execute_code", c.args, c.words...)
					} else {
						s.exec(c.args, c.words...)
					}
					r := s.run(id, "globals().get('kept', 'no variable')")
					died := epochOf(t, r.Text) > before
					if kept, gone := strings.Contains(r.Text, "still here"), strings.Contains(r.Text, "no variable"); kept == died || gone != died {
						t.Errorf("the kernel died: %t (kernel_epoch %d before), variable kept: %t, gone: %t:\n%s", died, before, kept, gone, r.Text)
					}
					if c.kernel == survives && died || c.kernel == dies && !died {
						t.Errorf("the kernel died: %t, want %t:\n%s", died, !died, r.Text)
					}
				})
			}
		})
	}
}

// TestFilesWithoutEnd checks that code that creates millions of files fails: with runsc at the sandbox's limit on the number
// of files, with other runtimes because no space is left. The sandbox's JavaScript kernel must keep its variables, and code
// must be able to remove the files.
func TestFilesWithoutEnd(t *testing.T) {
	for _, p := range platforms(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := newHome(t, p.env...).connect(t)
			id := s.create(args{"memory_mb": 256})
			js := func(code string, words ...string) {
				s.exec(args{"sandbox_id": id, "language": "javascript", "code": code}, words...)
			}
			js("var kept = 'still here'")
			s.exec(args{"sandbox_id": id, "timeout_seconds": 240, "wait_seconds": 240, "code": `
import os
os.mkdir('many')
for n in range(10**7): os.close(os.open(f'many/{n}', os.O_CREAT))`}, map[bool]string{true: "can store 16384 files", false: "No space left"}[p.runtime == "runsc"])
			js("kept", "still here")
			s.run(id, "import os\nfor name in os.listdir('many')[1000:]: os.remove('many/' + name)\nlen(os.listdir('many'))", "1000")
			s.run(id, "open('one more', 'w').write('x')", "one more")
			js("kept", "still here")
		})
	}
}

// TestSocketBuffersWithoutEnd checks that the Python kernel is killed if its child processes fill the buffers of sockets
// until the sandbox reaches its memory limit. The JavaScript kernel in the same sandbox must keep its variables.
func TestSocketBuffersWithoutEnd(t *testing.T) {
	for _, p := range platforms(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			if p.name == "docker-runsc" && os.Getenv("DORMOUSE_TEST_OWN_RUNSC") == "" {
				skipMissing(t, "runsc", "a runsc that gVisor released ends the sandbox in this test; run scripts/with-engine, which starts a Docker engine with the runsc that Dormouse builds")
			}
			s := newHome(t, p.env...).connect(t)
			id := s.create(args{"memory_mb": 512})
			js := func(code string, words ...string) {
				s.exec(args{"sandbox_id": id, "language": "javascript", "code": code}, words...)
			}
			js("var kept = 'still here'")
			s.exec(args{"sandbox_id": id, "timeout_seconds": 240, "wait_seconds": 240, "code": `
import os, socket, time
def fill():
    pairs = []
    while True:
        a, b = socket.socketpair()
        a.setblocking(False)
        pairs.append((a, b))
        try:
            while True: a.send(bytes(65536))
        except BlockingIOError: pass
while True:
    if os.fork() == 0:
        try: fill() # until there are no more descriptors
        except OSError: time.sleep(600)
    time.sleep(0.2)`}, "memory limit of 512 MiB", "lost")
			js("kept", "still here")
			s.run(id, "1 + 1", "2")
		})
	}
}

func TestBadFiles(t *testing.T) {
	t.Parallel()
	for i, p := range platforms(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := newHome(t, p.env...).connect(t)
			id := s.create(nil)
			if i == 0 { // one platform is enough, because the request is refused before it reaches an engine
				huge := base64.StdEncoding.EncodeToString(make([]byte, 101<<20))
				s.refused("write_files", args{"sandbox_id": id, "files": []args{{"path": "huge", "base64": huge}}}, "limit")
			}
			s.run(id, "import os\nos.symlink('/etc/passwd', 'link')\nos.symlink('/proc/1/environ', 'init')\nos.mkfifo('fifo')\nos.symlink('/dev/zero', 'zero')\nos.mkdir('folder')\nos.symlink('/etc', 'etc')\nos.symlink('..', 'up')")

			write := func(path string) args {
				return args{"sandbox_id": id, "files": []args{{"path": path, "text": "x"}}}
			}
			read := func(path string) args { return args{"sandbox_id": id, "path": path} }
			for _, c := range []struct {
				name, tool string
				args       args
				words      []string
			}{
				{"a path that begins with ..", "write_files", write("../etc/passwd"), []string{".."}},
				{"a path with .. inside", "read_file", read("a/../../etc/passwd"), []string{".."}},
				{"an absolute path outside /workspace", "write_files", write("/etc/passwd"), []string{"/workspace"}},
				{"a name of 300 characters", "write_files", write(strings.Repeat("n", 300)), []string{"255"}},
				{"a NUL byte in a path", "write_files", write("a\x00b"), []string{"control"}},
				{"an empty path", "write_files", write(""), []string{"empty"}},
				{"a symlink to a file outside /workspace", "read_file", read("link"), nil},
				{"a symlink to the guest's environment", "read_file", read("init"), nil},
				{"a symlink to a device", "read_file", read("zero"), nil},
				{"reading through a link to /etc", "read_file", read("etc/passwd"), []string{"link"}},
				{"reading through a link to the parent folder", "read_file", read("up/etc/passwd"), []string{"link"}},
				{"writing through a link to the parent folder", "write_files", write("up/tmp/x.txt"), []string{"link"}},
				{"creating folders through a link to the parent folder", "write_files", write("up/tmp/new/x.txt"), []string{"link"}},
				{"a named pipe", "read_file", read("fifo"), nil},
				{"a folder", "read_file", read("folder"), []string{"folder"}},
				{"a missing file", "read_file", read("nothing.txt"), []string{"nothing.txt"}},
				{"invalid base64", "write_files", args{"sandbox_id": id, "files": []args{{"path": "b", "base64": "%%%"}}}, []string{"base64"}},
				{"a file with both text and base64", "write_files", args{"sandbox_id": id, "files": []args{{"path": "b", "base64": "aa", "text": "x"}}}, []string{"text"}},
			} {
				t.Run(c.name, func(t *testing.T) {
					s := s.with(t)
					s.refused(c.tool, c.args, c.words...)
					s.run(id, "'next'", "next")
				})
			}
		})
	}
}

func TestBadSandboxes(t *testing.T) {
	t.Parallel()
	needsEngine(t)
	h := newHome(t, "DORMOUSE_MAX_SANDBOXES=2")
	s := h.connect(t)
	for _, c := range []struct {
		name, tool string
		args       args
		words      []string
	}{
		{"an unknown sandbox id", "get_sandbox", args{"sandbox_id": "sbx_aaaaaaaaaaaaaaaaaaaaaaaaaa"}, []string{"list_sandboxes"}},
		{"a malformed sandbox id", "execute_code", args{"sandbox_id": "'; drop table", "code": "1"}, []string{"no sandbox"}},
		{"an unknown execution id", "get_execution", args{"execution_id": "exec_aaaaaaaaaaaaaaaaaaaaaaaaaa"}, []string{"no execution"}},
		{"a TTL of 0", "create_sandbox", args{"ttl": "0s"}, []string{"ttl"}},
		{"a TTL of 15 days", "create_sandbox", args{"ttl": "15d"}, []string{"14 days"}},
		{"a TTL of tomorrow", "create_sandbox", args{"ttl": "tomorrow"}, []string{"24h"}},
		{"an image that is not allowed", "create_sandbox", args{"image": "alpine"}, []string{"--allow-image"}},
		{"too little memory", "create_sandbox", args{"memory_mb": 1}, []string{"memory_mb"}},
		{"too many CPUs", "create_sandbox", args{"cpus": 1000}, []string{"cpus"}},
	} {
		t.Run(c.name, func(t *testing.T) { s.with(t).refused(c.tool, c.args, c.words...) })
	}
	t.Run("more running sandboxes than --max-sandboxes", func(t *testing.T) {
		s := s.with(t)
		a, b := s.create(nil), s.create(nil)
		var running []string
		// Both sandboxes are kept busy, because an idle sandbox could be suspended to free capacity for a third.
		for _, id := range []string{a, b} {
			r := s.exec(args{"sandbox_id": id, "wait_seconds": 1, "code": "import time; time.sleep(600)"}, "goes on by itself")
			running = append(running, executionID(t, r.Text))
		}
		s.refused("create_sandbox", nil, "2 sandboxes", "--max-sandboxes")
		for _, id := range running {
			s.ok("interrupt_execution", args{"execution_id": id})
		}
		s.ok("delete_sandbox", args{"sandbox_id": a})
		s.run(b, "1 + 1", "2")
		s.ok("delete_sandbox", args{"sandbox_id": b})
	})
	t.Run("more memory than --max-memory", func(t *testing.T) {
		h := newHome(t, "DORMOUSE_MAX_MEMORY=1GB")
		h.connect(t).refused("create_sandbox", args{"memory_mb": 1025}, "1024 MB in total", "--max-memory")
	})
	t.Run("the error about an expired sandbox names its expiry", func(t *testing.T) {
		s := s.with(t)
		id := s.create(nil)
		s.ok("update_sandbox", args{"sandbox_id": id, "ttl": "1s"})
		eventually(t, "the sandbox is terminated", func() bool {
			return strings.Contains(s.ok("get_sandbox", args{"sandbox_id": id}).Text, "terminated")
		})
		s.refused("execute_code", args{"sandbox_id": id, "code": "1"}, "TTL ended")
	})
	t.Run("an allowed image that does not exist", func(t *testing.T) {
		h := newHome(t, "DORMOUSE_ALLOW_IMAGE=no-such-image:1")
		h.connect(t).refused("create_sandbox", args{"image": "no-such-image:1"}, "no-such-image:1")
	})
	t.Run("a default image that does not exist", func(t *testing.T) {
		h := newHome(t, "DORMOUSE_IMAGE=no-such-image:2")
		h.connect(t).refused("create_sandbox", nil, "image")
	})
	t.Run("an engine that does not answer", func(t *testing.T) {
		h := newHome(t, noEngine...)
		h.connect(t).refused("create_sandbox", nil, "engine")
	})
}
