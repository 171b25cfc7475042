// Bench measures the times that users and agents wait for, through the built binary, and prints medians and 95th
// percentiles. `make bench` runs its three parts: calls, messages and hibernate. `go run ./bench messages` runs only
// the part messages. Bench measures each runtime of each engine on this machine, and starts new daemons for each runtime.
//
// main.go contains the part calls, messages.go the part messages, and hibernate.go the part hibernate.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dormouse-sandbox/dormouse/examples/mcpclient"
	"github.com/dormouse-sandbox/dormouse/sandboxd/api"
	"github.com/dormouse-sandbox/dormouse/sandboxd/home"
)

const binary = "bin/dormouse"

type args = mcpclient.Args

func main() {
	only := flag.String("only", "", "docker or gvisor alone")
	suspended := flag.Int("suspended", 0, "in the part hibernate, also suspend this many sandboxes, and measure the resume of each")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	done := 0
	part := func(name string, f func() error) {
		if flag.NArg() > 0 && !slices.Contains(flag.Args(), name) {
			return
		}
		if err := f(); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
	}
	engine := func(title string, env ...string) {
		done++
		fmt.Printf("\n%s\n", title)
		part("calls", func() error { return measure(ctx, env...) })
		part("messages", func() error { return rawMessages(ctx, env...) })
	}
	for _, runtime := range []string{"runc", "runsc"} {
		if *only != "gvisor" && slices.Contains(engineHere("docker").Runtimes, runtime) {
			engine("docker, "+runtime, "DORMOUSE_ENGINE=docker", "DORMOUSE_RUNTIME="+runtime)
		}
	}
	if *only != "docker" && engineHere("gvisor").OK {
		engine("gvisor", "DORMOUSE_ENGINE=gvisor")
		part("hibernate", func() error { return hibernate(ctx, *suspended) })
	}
	if done == 0 {
		fmt.Fprintln(os.Stderr, "bench: no engine:", engineHere("docker").Why)
		os.Exit(1)
	}
}

type engineReport struct {
	OK       bool     `json:"ok"`
	Why      string   `json:"why"`
	Runtimes []string `json:"runtimes"`
}

func engineHere(name string) (r engineReport) {
	out, _ := exec.Command(binary, "doctor", "--engine-only", "--engine", name, "--json").Output()
	_ = json.Unmarshal(out, &r)
	if !r.OK {
		r.Runtimes = nil
	}
	return r
}

// daemon starts an MCP session and its daemon in a new home. The caller must call end, which closes the session, stops the
// daemon and removes the home.
func daemon(ctx context.Context, env ...string) (home string, s *mcpclient.Session, end func(), err error) {
	if home, err = os.MkdirTemp("", "dmb"); err != nil {
		return "", nil, nil, err
	}
	if s, err = mcpclient.Start(ctx, binary, append(env, "DORMOUSE_HOME="+home)); err != nil {
		return "", nil, nil, errors.Join(err, os.RemoveAll(home))
	}
	return home, s, func() {
		s.Close()
		stopDaemon(home)
		os.RemoveAll(home)
	}, nil
}

func measure(ctx context.Context, env ...string) error {
	home, s, end, err := daemon(ctx, env...)
	if err != nil {
		return err
	}
	defer end()
	if err := row("create_sandbox + first statement, the first", 1, func() error { return create(ctx, s) }); err != nil {
		return err
	}
	if err := awaitSnapshot(ctx, home); err != nil {
		return err
	}
	if err := row("create_sandbox + first statement", 10, func() error { return create(ctx, s) }); err != nil {
		return err
	}
	created, err := s.Must(ctx, "create_sandbox", nil)
	if err != nil {
		return err
	}
	id := created.Structured["id"].(string)
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

// awaitSnapshot waits until the gvisor engine has made the snapshot from which it starts sandboxes. The engine begins to
// make it after the home's first sandbox has started. Before it is complete, rows would also measure the work on the
// snapshot. If the home belongs to another engine, awaitSnapshot returns nil at once. It returns an error if there is no
// snapshot after a minute.
func awaitSnapshot(ctx context.Context, home string) error {
	if _, err := os.Stat(filepath.Join(home, "gvisor")); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		// The engine writes the manifest after all other files of a checkpoint.
		if made, _ := filepath.Glob(filepath.Join(home, "gvisor/snapshots/*/checkpoint/manifest.json")); len(made) > 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New("the gvisor engine made no snapshot within a minute; the daemon's log says why")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func create(ctx context.Context, s *mcpclient.Session) error {
	created, err := s.Must(ctx, "create_sandbox", nil)
	if err != nil {
		return err
	}
	id := created.Structured["id"]
	if _, err := s.Must(ctx, "execute_code", args{"sandbox_id": id, "code": "print(1)"}); err != nil {
		return err
	}
	untimed(func() { _, err = s.Must(ctx, "delete_sandbox", args{"sandbox_id": id}) })
	return err
}

// hundredMegabytes measures a write and a read of 100 MB through the REST API on the daemon's socket.
func hundredMegabytes(ctx context.Context, dir, id string) error {
	client := api.Dial(home.SocketPath(dir))
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
			err = fmt.Errorf("%d bytes were read, want %d", n, len(data))
		}
		return err
	})
}

var excluded time.Duration

// untimed runs f and excludes the time that f takes from the measurement of the current row.
func untimed(f func()) {
	started := time.Now()
	f()
	excluded += time.Since(started)
}

func row(name string, n int, f func() error) error {
	times := make([]time.Duration, 0, n)
	for range n {
		excluded = 0
		started := time.Now()
		if err := f(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		times = append(times, time.Since(started)-excluded)
	}
	report(name, times)
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
