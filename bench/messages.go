package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// This file measures huge messages, and the rate of small messages. It sends raw JSON, so that the results do not include
// the cost of a client library. Each row also reports by how much the server's memory grew: its peak during the row minus
// its memory use before the row.

const (
	fileSize   = 100 << 20
	concurrent = 4
)

// wire is a connection to one server that sends and receives raw JSON. Concurrent calls must have different ids.
type wire interface {
	// call sends a request with the given id and reads the whole answer. It returns the answer's first 64 KiB and its size.
	call(id int, message []byte) (head []byte, size int64, err error)
	pid() int
	close()
}

func messages(ctx context.Context, home, name string, w wire) error {
	defer w.close()
	head, _, err := w.call(0, request(0, "create_sandbox", `{}`))
	if err != nil {
		return err
	}
	sandboxID := regexp.MustCompile(`sbx_\w+`).FindString(string(head))
	if sandboxID == "" {
		return fmt.Errorf("create_sandbox: %s", head)
	}
	defer w.call(0, request(0, "delete_sandbox", fmt.Sprintf(`{"sandbox_id":%q}`, sandboxID)))
	if err := awaitSnapshot(ctx, home); err != nil {
		return err
	}
	data := make([]byte, fileSize)
	rand.Read(data)
	text := base64.StdEncoding.EncodeToString(data)
	// The requests are built before the measurement, because the time to copy 140 MB is not the server's.
	writes := make([][]byte, concurrent+1)
	for id := range writes {
		writes[id] = request(id, "write_files", `{"sandbox_id":"`+sandboxID+`","files":[{"path":"big.bin","base64":"`+text+`"}]}`)
	}
	in := func(id int) error {
		head, _, err := w.call(id, writes[id])
		if err == nil && !bytes.Contains(head, []byte("1 file written")) {
			err = fmt.Errorf("write_files: %.300s", head)
		}
		return err
	}
	out := func(id int) error {
		head, size, err := w.call(id, request(id, "read_file", fmt.Sprintf(`{"sandbox_id":%q,"path":"big.bin","length":%d}`, sandboxID, fileSize)))
		if err == nil && size < fileSize/3*4 {
			err = fmt.Errorf("read_file: %d bytes: %.300s", size, head)
		}
		return err
	}
	for _, r := range []struct {
		name  string
		times int
		do    func() error
	}{
		{"100 MB in, " + name, 5, func() error { return in(1) }},
		{"100 MB out, " + name, 5, func() error { return out(1) }},
		{"four times 100 MB in at once, " + name, 3, func() error { return atOnce(concurrent, in) }},
		{"four times 100 MB out at once, " + name, 3, func() error { return atOnce(concurrent, out) }},
	} {
		before, used := memory(w.pid(), "VmRSS"), cpu(w.pid())
		resetPeak(w.pid())
		if err := row(r.name, r.times, r.do); err != nil {
			return err
		}
		fmt.Printf("    the server took %d MiB more memory, and %.0f ms of CPU each time\n",
			(memory(w.pid(), "VmHWM")-before)>>10, ms(cpu(w.pid())-used)/float64(r.times))
	}
	return rate("small calls a second, "+name, 16, 4000, func(id int) error {
		head, _, err := w.call(id, request(id, "get_sandbox", `{"sandbox_id":"`+sandboxID+`"}`))
		if err == nil && !bytes.Contains(head, []byte(`running`)) {
			err = fmt.Errorf("get_sandbox: %.300s", head)
		}
		return err
	})
}

func request(id int, tool, arguments string) []byte {
	return fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":%q,"arguments":%s}}`+"\n", id, tool, arguments)
}

func atOnce(n int, f func(id int) error) error {
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() { errs[i] = f(i + 1) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// rate calls f n times, at most inFlight times concurrently, and prints the number of calls per second.
func rate(name string, inFlight, n int, f func(id int) error) error {
	var next atomic.Int64
	begun := time.Now()
	err := atOnce(inFlight, func(int) error {
		for {
			i := int(next.Add(1))
			if i > n {
				return nil
			}
			if err := f(1000 + i); err != nil {
				return err
			}
		}
	})
	fmt.Printf("  %-40s %8.0f   n=%d, %d in flight\n", name, float64(n)/time.Since(begun).Seconds(), n, inFlight)
	return err
}

// memory returns the value of a field of /proc/PID/status in KiB, or 0 on systems without /proc.
func memory(pid int, field string) (kib int64) {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kib, _ = strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		}
	}
	return kib
}

// cpu returns the CPU time that the process pid has used, or 0 on systems without /proc.
func cpu(pid int) time.Duration {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100 everywhere
}

func resetPeak(pid int) {
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}

// stdioWire is a connection to `dormouse mcp`.
type stdioWire struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	mu  sync.Mutex

	waiting sync.Map // maps the id of each unanswered request (int) to the channel for its answer (chan answer)
}

type answer struct {
	head []byte
	size int64
}

func startStdio(ctx context.Context, env []string) (*stdioWire, error) {
	w := &stdioWire{cmd: exec.CommandContext(ctx, binary, "mcp")}
	w.cmd.Env = append(os.Environ(), env...)
	w.cmd.Stderr = os.Stderr
	in, err := w.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	w.in = in
	if err := w.cmd.Start(); err != nil {
		return nil, err
	}
	go w.read(out)
	return w, nil
}

func (w *stdioWire) read(out io.Reader) {
	r := bufio.NewReaderSize(out, 64<<10)
	for {
		var a answer
		for {
			part, err := r.ReadSlice('\n')
			if a.head == nil {
				a.head = bytes.Clone(part)
			}
			a.size += int64(len(part))
			if err == nil {
				break
			}
			if err != bufio.ErrBufferFull {
				return
			}
		}
		var id int
		fmt.Sscanf(string(a.head), `{"jsonrpc":"2.0","id":%d,`, &id)
		if c, ok := w.waiting.LoadAndDelete(id); ok {
			c.(chan answer) <- a
		}
	}
}

func (w *stdioWire) call(id int, message []byte) ([]byte, int64, error) {
	c := make(chan answer, 1)
	w.waiting.Store(id, c)
	w.mu.Lock()
	_, err := w.in.Write(message)
	w.mu.Unlock()
	if err != nil {
		return nil, 0, err
	}
	select {
	case a := <-c:
		return a.head, a.size, nil
	case <-time.After(2 * time.Minute):
		return nil, 0, errors.New("no answer")
	}
}

func (w *stdioWire) pid() int { return w.cmd.Process.Pid }
func (w *stdioWire) close()   { w.in.Close(); _ = w.cmd.Wait() }

// httpWire is a connection to `dormouse serve`.
type httpWire struct {
	cmd    *exec.Cmd
	url    string
	token  string
	client http.Client
}

func startHTTP(ctx context.Context, home string, env []string) (*httpWire, error) {
	w := &httpWire{cmd: exec.CommandContext(ctx, binary, "serve", "--listen=127.0.0.1:0")}
	w.cmd.Env = append(os.Environ(), env...)
	w.client.Transport = &http.Transport{MaxIdleConnsPerHost: 16, WriteBufferSize: 64 << 10, ReadBufferSize: 64 << 10}
	stderr, err := w.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := w.cmd.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(stderr)
	for w.url == "" && lines.Scan() {
		if m := regexp.MustCompile(`^  MCP +(\S+)$`).FindStringSubmatch(lines.Text()); m != nil {
			w.url = m[1]
		}
	}
	if w.url == "" {
		return nil, errors.New("dormouse serve does not serve")
	}
	go io.Copy(io.Discard, stderr)
	token, err := os.ReadFile(filepath.Join(home, "token"))
	w.token = strings.TrimSpace(string(token))
	return w, err
}

func (w *httpWire) call(_ int, message []byte) ([]byte, int64, error) {
	r, err := http.NewRequest(http.MethodPost, w.url, bytes.NewReader(message))
	if err != nil {
		return nil, 0, err
	}
	r.Header = http.Header{"Authorization": {"Bearer " + w.token}, "Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}}
	res, err := w.client.Do(r)
	if err != nil {
		return nil, 0, err
	}
	defer res.Body.Close()
	head, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		return nil, 0, err
	}
	rest, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, res.Body, make([]byte, 256<<10))
	return head, int64(len(head)) + rest, err
}

func (w *httpWire) pid() int { return w.cmd.Process.Pid }

func (w *httpWire) close() {
	w.client.CloseIdleConnections()
	_ = w.cmd.Process.Signal(syscall.SIGTERM)
	_ = w.cmd.Wait()
}

// rawMessages measures the stdio and the HTTP transport, and starts a new daemon for each.
func rawMessages(ctx context.Context, env ...string) error {
	for _, kind := range []string{"stdio", "HTTP"} {
		if err := rawMessagesOf(ctx, kind, env); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	return nil
}

func rawMessagesOf(ctx context.Context, kind string, env []string) error {
	home, err := os.MkdirTemp("", "dmb")
	if err != nil {
		return err
	}
	defer os.RemoveAll(home)
	defer stopDaemon(home)
	env = append(slices.Clone(env), "DORMOUSE_HOME="+home)
	if kind == "HTTP" {
		w, err := startHTTP(ctx, home, env)
		if err != nil {
			return err
		}
		return messages(ctx, home, kind, w)
	}
	w, err := startStdio(ctx, env)
	if err != nil {
		return err
	}
	return messages(ctx, home, kind, w)
}
