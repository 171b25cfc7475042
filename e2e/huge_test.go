//go:build unix

package e2e_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// rawPeer is a client of one server. pid is the server's process id, send sends a raw JSON message to the server, and next
// returns the next answer.
type rawPeer struct {
	pid  int
	send func(message string)
	next func() string
}

// rawPeers returns a map from the name of each transport to a function that starts a server and returns a client of it.
func rawPeers(t *testing.T) map[string]func() rawPeer {
	return map[string]func() rawPeer{
		"stdio": func() rawPeer { return rawStdio(t, newHome(t)) },
		"http":  func() rawPeer { return rawHTTP(t, startServe(t, newHome(t))) },
		"sse":   func() rawPeer { return rawSSE(t, startServe(t, newHome(t), "--sse")) },
	}
}

func rawStdio(t *testing.T, h *home) rawPeer {
	t.Helper()
	cmd := exec.Command(binary, "mcp")
	cmd.Env = append(os.Environ(), h.env...)
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Process.Kill(); cmd.Wait() })
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		for r := bufio.NewReader(out); ; {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			lines <- line
		}
	}()
	return rawPeer{cmd.Process.Pid, func(m string) {
		if _, err := io.WriteString(in, m+"\n"); err != nil {
			t.Error(err)
		}
	}, func() string { return receiveAnswer(t, lines) }}
}

func rawHTTP(t *testing.T, s *served) rawPeer {
	answers := make(chan string, 100)
	return rawPeer{s.cmd.Process.Pid, func(m string) {
		go func() { answers <- s.post(s.url+"/mcp", m) }()
	}, func() string { return receiveAnswer(t, answers) }}
}

func rawSSE(t *testing.T, s *served) rawPeer {
	t.Helper()
	r, _ := http.NewRequest("GET", s.url+"/sse", nil)
	r.Header.Set("Authorization", "Bearer "+s.token)
	res, err := s.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	answers := make(chan string, 100)
	go func() {
		for r := bufio.NewReader(res.Body); ; {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			if data, ok := strings.CutPrefix(line, "data: "); ok {
				answers <- data
			}
		}
	}()
	endpoint := s.url + strings.TrimSpace(receiveAnswer(t, answers))
	return rawPeer{s.cmd.Process.Pid, func(m string) {
		if refused := s.post(endpoint, m); refused != "" {
			answers <- refused
		}
	}, func() string { return receiveAnswer(t, answers) }}
}

func receiveAnswer(t *testing.T, answers <-chan string) string {
	t.Helper()
	select {
	case a := <-answers:
		return a
	case <-time.After(2 * time.Minute):
		t.Fatal("no answer within 2 minutes")
		return ""
	}
}

// post sends a message with an HTTP POST request and returns the body of the answer.
func (s *served) post(url, message string) string {
	r, _ := http.NewRequest("POST", url, strings.NewReader(message))
	r.Header = http.Header{"Authorization": {"Bearer " + s.token}, "Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}}
	res, err := s.client.Do(r)
	if err != nil {
		s.t.Error(err)
		return ""
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	return string(b)
}

func rawCall(id, tool string, a args) string {
	b, _ := json.Marshal(args{"jsonrpc": "2.0", "id": json.RawMessage(id), "method": "tools/call", "params": args{"name": tool, "arguments": a}})
	return string(b)
}

// says fails the test unless an answer contains each of the given words. It also fails the test if the answer contains a
// placeholder of the spool. Inside the server, a placeholder (spool:…) stands for a long string of a message; clients must
// never see it.
func says(t *testing.T, answer string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(answer, w) {
			t.Errorf("the answer does not contain %q: %.1000s", w, answer)
		}
	}
	if strings.Contains(answer, "spool:") {
		t.Errorf("the answer contains a placeholder of the spool: %.1000s", answer)
	}
}

// TestHugeMessages checks over each transport that the server accepts and returns a message with a file of 100 MiB. The
// server's memory must hardly grow, because the server keeps the data in a file. The server must also answer other huge
// messages, whether they are valid or not.
func TestHugeMessages(t *testing.T) {
	needsEngine(t)
	data := make([]byte, 100<<20)
	rand.Read(data)
	sum := sha256.Sum256(data)
	b64 := base64.StdEncoding.EncodeToString(data)
	for kind, start := range rawPeers(t) {
		t.Run(kind, func(t *testing.T) {
			p := start()
			ask := func(message string) string { t.Helper(); p.send(message); return p.next() }
			box := regexp.MustCompile(`sbx_\w+`).FindString(ask(rawCall("0", "create_sandbox", nil)))
			file := func(path string, f args) args {
				f["path"] = path
				return args{"sandbox_id": box, "files": []args{f}}
			}
			says(t, ask(rawCall("0", "execute_code", args{"sandbox_id": box, "code": "1"})), "exec_")

			before := memoryOf(p.pid, "VmRSS")
			os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.pid), []byte("5"), 0)
			says(t, ask(rawCall("1", "write_files", file("big.bin", args{"base64": b64}))), `"id":1`, hex.EncodeToString(sum[:]))
			out := ask(rawCall("2", "read_file", args{"sandbox_id": box, "path": "big.bin", "length": len(data)}))
			if i := strings.Index(out, `"blob":"`); i < 0 || !strings.HasPrefix(out[i+8:], b64+`"`) || !strings.Contains(out[:i], `"id":2`) {
				t.Errorf("read_file did not return the bytes that were written: %.300s", out)
			}
			p.send(`{"jsonrpc":"2.0","id":3,"method":"resources/read","params":{"uri":"sandbox://` + box + `/files/big.bin"}}`)
			out = p.next()
			if i := strings.Index(out, `"blob":"`); i < 0 || !strings.HasPrefix(out[i+8:], b64+`"`) {
				t.Errorf("resources/read did not return the bytes that were written: %.300s", out)
			}
			out = ""
			if grown := memoryOf(p.pid, "VmHWM") - before; grown > 64<<10 {
				t.Errorf("the server's memory grew by %d KiB, want at most %d", grown, 64<<10)
			}

			text := strings.Repeat("a line with \"quotes\", a tab\t, é, 漢字 and \U0001F600\n", 100_000)
			textSum := sha256.Sum256([]byte(text))
			says(t, ask(rawCall("3", "write_files", file("text", args{"text": text}))), hex.EncodeToString(textSum[:]))
			token := "spool:ABCDEFGHIJKLMNOPQRSTUVWXYZ:0"
			tokenSum := sha256.Sum256([]byte(token))
			says(t, ask(rawCall("4", "write_files", file("token", args{"text": token}))), hex.EncodeToString(tokenSum[:]))

			for _, c := range []struct {
				name, message string
				words         []string
			}{
				{"a message of 200 MB", rawCall("5", "write_files", file("huge", args{"base64": strings.Repeat("QUJD", 50_000_000)})), []string{"144 MiB", "limit", `"id":5`}},
				{"a file of 101 MiB", rawCall("5", "write_files", file("huge", args{"base64": base64.StdEncoding.EncodeToString(make([]byte, 101<<20))})), []string{"100 MiB", "limit", `"isError":true`}},
				{"invalid base64 after 1 MiB", rawCall("5", "write_files", file("bad", args{"base64": b64[:1<<20] + "%" + b64[:1<<20]})), []string{"1048576", `"isError":true`}},
				{"invalid UTF-8", strings.Replace(rawCall("5", "write_files", file("bad", args{"text": text})), "quotes", "quo\xffes", 1), []string{"not valid UTF-8", `"id":5`}},
				{"a message that ends in the middle", rawCall("5", "write_files", file("bad", args{"base64": b64[:1<<20]}))[:1<<19], []string{"not one valid JSON"}},
				{"two messages on one line", strings.Repeat(rawCall("5", "write_files", file("bad", args{"base64": b64[:1<<20]})), 2), []string{"not one valid JSON"}},
				{"a file with both text and base64", rawCall("5", "write_files", file("bad", args{"base64": b64[:1<<20], "text": text})), []string{"exactly one", `"isError":true`}},
				{"a long path", rawCall("5", "write_files", file(b64[:1<<20], args{"text": "x"})), []string{"path", `"isError":true`}},
				{"code above its limit", rawCall("5", "execute_code", args{"sandbox_id": box, "code": "#" + text}), []string{"the limit is 1048576", "write_files", `"isError":true`}},
				{"a display name of 100 kB", rawCall("5", "create_sandbox", args{"display_name": text[:100_000]}), []string{"display_name", `"isError":true`}},
				{"a display name of several MB", rawCall("5", "create_sandbox", args{"display_name": text}), []string{"display_name", "limit", `"isError":true`}},
				{"an execution id of 100 kB", rawCall("5", "get_execution", args{"execution_id": text[:100_000]}), []string{`"isError":true`}},
				{"a long string in place of a number", rawCall("5", "execute_code", args{"sandbox_id": box, "code": "1", "wait_seconds": text}), []string{"wait_seconds", `"isError":true`}},
				{"a megabyte of digits", `{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"execute_code","arguments":{"code":` + strings.Repeat("1", 1<<20) + `}}}`, []string{`"id":5`}},
			} {
				t.Run(c.name, func(t *testing.T) {
					says(t, ask(c.message), c.words...)
					says(t, ask(rawCall("6", "execute_code", args{"sandbox_id": box, "code": "'next'"})), `"id":6`, "next")
				})
			}

			says(t, ask(rawCall("7", "execute_code", args{"sandbox_id": box, "code": "'''" + strings.Repeat("x", 200_000) + "'''\nprint('long code ran')"})), "long code ran")
			list, _ := json.Marshal([]args{{"path": "listed", "text": text}})
			says(t, ask(rawCall("8", "write_files", args{"sandbox_id": box, "files": string(list)})), hex.EncodeToString(textSum[:]))

			// Two concurrent calls have the same id. The server must answer both.
			for range 2 {
				p.send(rawCall(`"same"`, "write_files", file("same", args{"base64": b64[:4<<20]})))
			}
			for range 2 {
				says(t, p.next(), `"id":"same"`, "1 file written")
			}
		})
	}
}

// TestSpoolAfterKill checks that a server that is killed while it receives a message leaves no file in the folder spool.
func TestSpoolAfterKill(t *testing.T) {
	h := newHome(t, noEngine...)
	s := startServe(t, h)
	r, w := io.Pipe()
	go func() {
		io.WriteString(w, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"write_files","arguments":{"files":"`)
		io.WriteString(w, strings.Repeat("x", 8<<20))
	}()
	req, _ := http.NewRequest("POST", s.url+"/mcp", r)
	req.Header = http.Header{"Authorization": {"Bearer " + s.token}, "Content-Type": {"application/json"}}
	go s.client.Do(req)
	spool := filepath.Join(h.dir, "spool")
	eventually(t, "the server has a file of the message open", func() bool {
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", s.cmd.Process.Pid))
		for _, fd := range fds {
			if name, _ := os.Readlink(fd); strings.HasPrefix(name, spool) {
				return true
			}
		}
		return false
	})
	if info, err := os.Stat(spool); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder spool is %v (%v), want mode 0700", info, err)
	}
	s.cmd.Process.Kill()
	s.cmd.Wait()
	w.Close()
	if left, _ := os.ReadDir(spool); len(left) > 0 {
		t.Errorf("the killed server left %v in the folder spool", left)
	}
	// On Windows an open file can't be deleted, so a crash leaves files in the spool. The next server must remove such files at
	// its start.
	os.WriteFile(filepath.Join(spool, "dormouse-old"), []byte("x"), 0o600)
	startServe(t, h)
	if left, _ := os.ReadDir(spool); len(left) > 0 {
		t.Errorf("the next server did not remove %v from the folder spool", left)
	}
}

// memoryOf returns the value of a field of /proc/PID/status in KiB, or 0 if the file or the field is missing.
func memoryOf(pid int, field string) int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := bytes.Cut(text, []byte(field+":"))
	kib, _ := strconv.Atoi(strings.Fields(string(rest) + " 0")[0])
	return kib
}
