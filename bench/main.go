// Bench measures what a person or an agent waits for, through the built binary, and
// prints medians: `make bench`, or a part of it: `go run ./bench messages`. Each runtime that the engine has gets a daemon of its own.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dormouse-sandbox/dormouse/examples/mcpclient"
	"github.com/dormouse-sandbox/dormouse/sandboxd"
	"github.com/dormouse-sandbox/dormouse/sandboxd/api"
)

const binary = "bin/dormouse"

type args = mcpclient.Args

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	var engine struct {
		OK       bool     `json:"ok"`
		Why      string   `json:"why"`
		Runtimes []string `json:"runtimes"`
	}
	out, _ := exec.Command(binary, "doctor", "--engine-only", "--json").Output()
	if err := json.Unmarshal(out, &engine); err != nil || !engine.OK {
		fmt.Fprintln(os.Stderr, "bench: no engine:", engine.Why, err)
		os.Exit(1)
	}
	for _, runtime := range []string{"runc", "runsc"} {
		if !slices.Contains(engine.Runtimes, runtime) {
			continue
		}
		fmt.Printf("\ndocker, %s\n", runtime)
		parts := []func(context.Context, string) error{measure, rawMessages}
		if slices.Contains(os.Args[1:], "messages") {
			parts = parts[1:]
		}
		for _, f := range parts {
			if err := f(ctx, runtime); err != nil {
				fmt.Fprintln(os.Stderr, "bench:", err)
				os.Exit(1)
			}
		}
	}
}

func measure(ctx context.Context, runtime string) error {
	home, err := os.MkdirTemp("", "dmb")
	if err != nil {
		return err
	}
	defer os.RemoveAll(home)
	s, err := mcpclient.Start(ctx, binary, []string{"DORMOUSE_HOME=" + home, "DORMOUSE_RUNTIME=" + runtime})
	if err != nil {
		return err
	}
	defer s.Close()
	defer stopDaemon(home)

	if err := row("create_sandbox + first statement", 10, func() error { return create(ctx, s) }); err != nil {
		return err
	}
	box, err := s.Must(ctx, "create_sandbox", nil)
	if err != nil {
		return err
	}
	id := box.Structured["id"].(string)
	defer s.Call(context.Background(), "delete_sandbox", args{"sandbox_id": id})
	run := func(code, want string) error {
		r, err := s.Must(ctx, "execute_code", args{"sandbox_id": id, "code": code})
		if err == nil && !strings.Contains(r.Text, want) {
			err = fmt.Errorf("%s: %s", code, r.Text)
		}
		return err
	}
	if err := run("1", "1"); err != nil {
		return err
	}
	if err := row("print(1) in a live sandbox, MCP stdio", 500, func() error { return run("print(1)", "1") }); err != nil {
		return err
	}
	if err := row("a matplotlib figure", 10, func() error {
		return run("import matplotlib.pyplot as plt; plt.plot([1,2]); print('drawn')", "drawn")
	}); err != nil {
		return err
	}
	return hundredMegabytes(ctx, home, id)
}

func create(ctx context.Context, s *mcpclient.Session) error {
	box, err := s.Must(ctx, "create_sandbox", nil)
	if err != nil {
		return err
	}
	id := box.Structured["id"]
	if _, err := s.Must(ctx, "execute_code", args{"sandbox_id": id, "code": "print(1)"}); err != nil {
		return err
	}
	pause(func() { _, err = s.Must(ctx, "delete_sandbox", args{"sandbox_id": id}) })
	return err
}

// hundredMegabytes goes through REST on the daemon's socket.
func hundredMegabytes(ctx context.Context, home, id string) error {
	client := api.Dial(sandboxd.SocketPath(home))
	defer client.Close()
	data := make([]byte, 100<<20)
	rand.Read(data)
	if err := row("100 MB in, REST", 5, func() error {
		_, err := client.WriteFile(ctx, id, "big.bin", bytes.NewReader(data))
		return err
	}); err != nil {
		return err
	}
	return row("100 MB out, REST", 5, func() error {
		body, _, err := client.ReadFile(ctx, id, "big.bin", 0, -1)
		if err != nil {
			return err
		}
		defer body.Close()
		n, err := io.Copy(io.Discard, body)
		if err == nil && n != int64(len(data)) {
			err = fmt.Errorf("%d bytes came out", n)
		}
		return err
	})
}

var paused time.Duration

// pause leaves what f takes out of the row's time.
func pause(f func()) {
	started := time.Now()
	f()
	paused += time.Since(started)
}

func row(name string, n int, f func() error) error {
	times := make([]time.Duration, 0, n)
	for range n {
		paused = 0
		started := time.Now()
		if err := f(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		times = append(times, time.Since(started)-paused)
	}
	slices.Sort(times)
	fmt.Printf("  %-40s median %8.2f ms   p95 %8.2f ms   n=%d\n", name, ms(times[n/2]), ms(times[n*95/100]), n)
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func stopDaemon(home string) {
	text, err := os.ReadFile(filepath.Join(home, "sandboxd.pid"))
	if err != nil {
		return
	}
	if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
		if p, err := os.FindProcess(pid); err == nil {
			_ = p.Signal(syscall.SIGTERM)
		}
	}
}
