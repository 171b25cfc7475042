//go:build unix

package kernels_test

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/kernels"
)

// message is any message of docs/kernel-protocol.md.
type message struct {
	Type      string            `json:"type"`
	ID        *string           `json:"id"`
	Text      string            `json:"text"`
	Data      map[string]string `json:"data"`
	Name      string            `json:"name"`
	Message   string            `json:"message"`
	Traceback string            `json:"traceback"`
	Status    string            `json:"status"`
	Language  string            `json:"language"`
	Runner    string            `json:"runner"`
}

// kernel is a running kernel and the guest's end of its file descriptors.
type kernel struct {
	t        *testing.T
	command  *exec.Cmd
	root     string // the folder with the kernels' programs
	dir      string // the kernel's working directory and home folder
	requests *os.File
	messages *bufio.Reader
	pipe     *os.File // the file that messages reads
	acks     *os.File
	raw      *os.File // read end of the kernel's stdout and stderr
	ready    message
}

// outcome is what an execution printed and returned, in the order in which the guest would store it.
type outcome struct {
	text     string // stdout, stderr and raw output
	displays []map[string]string
	result   map[string]string
	err      message
	status   string
	all      []message
}

func language(t *testing.T, name string) kernels.Language {
	t.Helper()
	for _, language := range kernels.Languages {
		if language.Name == name {
			return language
		}
	}
	t.Fatalf("kernels.Languages has no %q", name)
	return kernels.Language{}
}

// start starts the language's kernel as the guest does and waits for it to be ready.
func start(t *testing.T, name, interpreter string, env ...string) *kernel {
	t.Helper()
	root, dir := t.TempDir(), t.TempDir()
	if err := os.CopyFS(root, kernels.Files); err != nil {
		t.Fatal(err)
	}
	argv := language(t, name).Argv(interpreter, root, 512)
	k := &kernel{t: t, root: root, dir: dir, command: exec.Command(argv[0], argv[1:]...)}
	pipe := func() (*os.File, *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		return r, w
	}
	theirRequests, requests := pipe()
	messages, theirMessages := pipe()
	theirAcks, acks := pipe()
	raw, theirRaw := pipe()
	k.requests, k.messages, k.pipe, k.acks, k.raw = requests, bufio.NewReaderSize(messages, 1<<20), messages, acks, raw
	k.command.Dir = dir
	k.command.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "LANG=C.UTF-8", "MPLCONFIGDIR=" + fontCacheDir(t)}, env...)
	k.command.Stdout, k.command.Stderr = theirRaw, theirRaw
	k.command.ExtraFiles = []*os.File{theirRequests, theirMessages, theirAcks}
	k.command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := k.command.Start(); err != nil {
		t.Fatal(err)
	}
	for _, file := range []*os.File{theirRequests, theirMessages, theirAcks, theirRaw} {
		file.Close()
	}
	t.Cleanup(func() {
		requests.Close() // end of file makes the kernel exit
		timer := time.AfterFunc(time.Minute, func() {
			t.Errorf("a minute after the end of its requests, the kernel still runs, want it to exit")
			k.command.Process.Kill()
		})
		k.command.Wait()
		timer.Stop()
		for _, file := range []*os.File{messages, acks, raw} {
			file.Close()
		}
	})
	k.ready = k.next()
	if k.ready.Type != "ready" {
		t.Fatalf("first message = %+v, want ready", k.ready)
	}
	return k
}

// fontCacheDir is the folder for matplotlib's list of fonts, which takes seconds to create.
func fontCacheDir(t *testing.T) string {
	dir := filepath.Join(os.TempDir(), "dormouse-test-matplotlib")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (k *kernel) next() message {
	k.t.Helper()
	k.pipe.SetReadDeadline(time.Now().Add(time.Minute))
	line, err := k.messages.ReadBytes('\n')
	if err != nil {
		k.t.Fatalf("read a message: %v; raw output: %q", err, k.drain())
	}
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		k.t.Fatalf("message %q: %v", line, err)
	}
	if m.Type == "begun" {
		k.acks.Write([]byte{1})
	}
	return m
}

// drain reads all raw output that is in the pipe, as the guest does before it handles a message.
func (k *kernel) drain() string {
	k.t.Helper()
	conn, err := k.raw.SyscallConn()
	if err != nil {
		k.t.Fatal(err)
	}
	var text strings.Builder
	err = conn.Control(func(fd uintptr) { // the pipe is not blocking
		for buffer := make([]byte, 64<<10); ; {
			n, _ := syscall.Read(int(fd), buffer)
			if n <= 0 {
				return
			}
			text.Write(buffer[:n])
		}
	})
	if err != nil {
		k.t.Fatal(err)
	}
	return text.String()
}

func (k *kernel) send(code string) {
	k.t.Helper()
	line, err := json.Marshal(map[string]string{"type": "execute", "id": "exec_1", "code": code})
	if err != nil {
		k.t.Fatal(err)
	}
	if _, err := k.requests.Write(append(line, '\n')); err != nil {
		k.t.Fatal(err)
	}
}

// wait reads messages until the execution is done.
func (k *kernel) wait() outcome {
	k.t.Helper()
	var o outcome
	for {
		m := k.next()
		if m.Type != "ready" {
			o.text += k.drain()
		}
		o.all = append(o.all, m)
		switch m.Type {
		case "stdout", "stderr":
			if len(o.text) < 1<<20 {
				o.text += m.Text
			}
		case "display":
			o.displays = append(o.displays, m.Data)
		case "result":
			o.result = m.Data
		case "error":
			o.err = m
		case "sync":
			k.acks.Write([]byte{1})
		case "done":
			o.status = m.Status
			return o
		}
	}
}

func (k *kernel) run(code string) outcome {
	k.t.Helper()
	k.send(code)
	return k.wait()
}

// sendRequest sends a request that has no field but its type.
func (k *kernel) sendRequest(what string) {
	k.t.Helper()
	if _, err := k.requests.WriteString(`{"type":"` + what + `"}` + "\n"); err != nil {
		k.t.Fatal(err)
	}
}

// renew asks the kernel to renew its random state, and reads the renewed message. The message's text names the state
// that the kernel can't renew. The test fails unless the text starts with want, or is empty if want is empty.
func (k *kernel) renew(want string) {
	k.t.Helper()
	k.sendRequest("renew")
	for {
		switch m := k.next(); m.Type {
		case "renewed":
			if want == "" && m.Text != "" || !strings.HasPrefix(m.Text, want) {
				k.t.Errorf("the renewed message has the text %q, want %q", m.Text, want)
			}
			return
		case "stderr": // shows the user the same text as the renewed message
		default:
			k.t.Fatalf("the kernel sent %+v, want renewed", m)
		}
	}
}

// testWarm checks that the warm request makes a kernel import the libraries that most code imports. The parameter check
// is code that runs after that; its result must contain "ok".
func testWarm(t *testing.T, k *kernel, check string) {
	t.Run("warm imports the libraries without binding names", func(t *testing.T) {
		k.t = t
		k.sendRequest("warm")
		if m := k.next(); m.Type != "warm" {
			t.Errorf("the kernel sent %+v, want warm", m)
		}
		if o := k.run(check); !strings.Contains(o.result["text/plain"], "ok") || o.text != "" {
			t.Errorf("after warm, the check printed %q and returned %+v, want ok", o.text, o.result)
		}
	})
}

// testRenewal checks the renewal of random state. The parameters are code: setup sets the random state, and draw prints
// random values. Running both again must print the same values, but other values if the random state is renewed in
// between. check runs after that, and its result must contain "ok".
func testRenewal(t *testing.T, k *kernel, setup, draw, check string) {
	t.Run("renew changes the random state", func(t *testing.T) {
		k.t = t
		values := func() []string {
			o := k.run(draw)
			if o.status != "ok" {
				t.Fatalf("status = %s, want ok: %+v", o.status, o.all)
			}
			return strings.Split(strings.TrimSpace(o.text), "\n")
		}
		k.run(setup)
		first := values()
		k.run(setup)
		if again := values(); !slices.Equal(first, again) {
			t.Fatalf("with the same seed, the values were %q and then %q, want the same", first, again)
		}
		k.run(setup)
		k.renew("")
		for i, value := range values() {
			if value == first[i] {
				t.Errorf("after the renewal, value %d is %q again, want another", i, value)
			}
		}
		if o := k.run(check); !strings.Contains(o.result["text/plain"], "ok") || o.text != "" {
			t.Errorf("after the renewal, the check printed %q and returned %+v, want ok", o.text, o.result)
		}
	})
}

func (k *kernel) interrupt() {
	syscall.Kill(-k.command.Process.Pid, syscall.SIGINT)
}

// testCase is one behaviour of a kernel as a user sees it. The cells run one after another; the expectations apply to
// the last one. result, err and each part of trace must be contained in the actual texts. If status is empty, it is
// "ok" or, if err is set, "error".
type testCase struct {
	name     string
	cells    []string
	text     string   // the whole of stdout, stderr and raw output together
	result   string   // text/plain of the result
	displays []string // one MIME type of each display, in order
	err      string   // "Name: message"
	trace    []string // parts of the traceback
	not      []string // texts that must not appear anywhere
	status   string
}

func runTestCases(t *testing.T, k *kernel, testCases []testCase) {
	for _, p := range testCases {
		t.Run(p.name, func(t *testing.T) {
			k.t = t
			var o outcome
			for _, cell := range p.cells {
				o = k.run(cell)
			}
			if p.status == "" {
				p.status = map[bool]string{true: "ok", false: "error"}[p.err == ""]
			}
			if o.status != p.status {
				t.Errorf("status = %s, want %s", o.status, p.status)
			}
			if o.text != p.text {
				t.Errorf("text = %q, want %q", o.text, p.text)
			}
			if got := o.result["text/plain"]; !strings.Contains(got, p.result) || p.result == "" && o.result != nil {
				t.Errorf("result = %q, want %q", got, p.result)
			}
			if len(o.displays) != len(p.displays) {
				t.Errorf("%d displays, want %d: %v", len(o.displays), len(p.displays), p.displays)
			} else {
				for i, mime := range p.displays {
					if o.displays[i][mime] == "" {
						t.Errorf("display %d has no %s: %v", i, mime, o.displays[i])
					}
				}
			}
			got := ""
			if o.err.Type != "" {
				got = o.err.Name + ": " + o.err.Message
			}
			if !strings.Contains(got, p.err) || p.err == "" && got != "" {
				t.Errorf("error = %q, want %q\n%s", got, p.err, o.err.Traceback)
			}
			for _, part := range p.trace {
				if !strings.Contains(o.err.Traceback, part) {
					t.Errorf("traceback lacks %q:\n%s", part, o.err.Traceback)
				}
			}
			for _, part := range append(p.not, "dormouse_kernel", "kernel.cjs", "kernel.py") {
				if strings.Contains(o.err.Traceback, part) || strings.Contains(o.text, part) {
					t.Errorf("the user sees %q in the traceback or the text, want neither:\n%s\n%s", part, o.err.Traceback, o.text)
				}
			}
			if t.Failed() {
				for _, m := range o.all {
					t.Logf("%+v", m)
				}
			}
		})
	}
}

// testInterrupts checks for each of the cells that an interrupt ends the cell and that the kernel reports the
// interrupt. The parameter setup is code that sets variables. The kernel and these variables must survive: the result
// of check, which is code too, must be 42.
func testInterrupts(t *testing.T, k *kernel, setup, check string, cells map[string]string) {
	for name, code := range cells {
		t.Run("interrupts "+name, func(t *testing.T) {
			k.t = t
			k.run(setup)
			k.send(code)
			started := "stdout" // the cell is running when it has printed, or when it is about to start a process
			if strings.Contains(code, "'sleep") {
				started = "sync"
			}
			for m := (message{}); m.Type != started; {
				switch m = k.next(); m.Type {
				case "sync":
					k.acks.Write([]byte{1})
				case "error", "done":
					t.Fatalf("the kernel sent %+v before the interrupt, want %s", m, started)
				}
			}
			// The test repeats the signal, as the guest does, because the first one may miss a process that is about to
			// start.
			ended, stopped := make(chan struct{}), make(chan int)
			go func() {
				repeat := time.NewTicker(500 * time.Millisecond)
				defer repeat.Stop()
				for signals := 1; ; signals++ {
					k.interrupt()
					select {
					case <-repeat.C:
					case <-ended:
						stopped <- signals
						return
					}
				}
			}()
			o := k.wait()
			close(ended)
			if o.status != "interrupted" || o.err.Name == "" {
				t.Errorf("status, error = %q, %+v, want interrupted and an error", o.status, o.err)
			}
			if signals := <-stopped; signals > 20 { // the test sends one every half second, so a slow machine needs more than one
				t.Errorf("the cell ended after %d signals, want one or a few", signals)
			}
			k.interrupt() // the kernel must ignore this interrupt, because nothing runs
			if got := k.run(check); got.result["text/plain"] != "42" {
				t.Errorf("%s = %v afterwards, want 42", check, got.result)
			}
		})
	}
}

// testInterruptStorm checks that each execution gets exactly one done message, and that the kernel survives, whenever
// an interrupt arrives.
func testInterruptStorm(t *testing.T, k *kernel, code string) {
	t.Run("survives an interrupt at any moment", func(t *testing.T) {
		k.t = t
		for i := range 200 {
			sent := make(chan struct{})
			interrupt := time.AfterFunc(time.Duration(i)*10*time.Microsecond, func() { k.interrupt(); close(sent) })
			k.run(code)
			if !interrupt.Stop() {
				<-sent
			}
		}
		o := k.run("6*7")
		if o.status == "interrupted" { // by the last signal, which arrived after the last execution was done
			o = k.run("6*7")
		}
		if o.result["text/plain"] != "42" {
			t.Errorf("6*7 = %v after the interrupts, want 42: %+v", o.result, o.all)
		}
	})
}

// skipMissing skips a test because an interpreter is missing. If DORMOUSE_TEST_REQUIRE (a comma-separated list)
// contains the interpreter, the test fails instead.
func skipMissing(t *testing.T, part string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("DORMOUSE_TEST_REQUIRE"), ","), part) {
		t.Fatalf("DORMOUSE_TEST_REQUIRE contains %s, but it is not in PATH", part)
	}
	t.Skipf("NOT TESTED: no %s in PATH", part)
}
