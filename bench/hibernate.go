package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dormouse-sandbox/dormouse/examples/mcpclient"
)

// hibernate measures suspend, resume and fork on the gvisor engine. If suspended is not 0, it also suspends that number
// of sandboxes and measures their disk usage and their resume times.
func hibernate(ctx context.Context, suspended int) error {
	home, s, end, err := daemon(ctx, "DORMOUSE_ENGINE=gvisor", "DORMOUSE_IDLE_SUSPEND=1s", "DORMOUSE_CHECKPOINT_EVERY=0")
	if err != nil {
		return err
	}
	defer end()
	for _, state := range []struct{ name, code string }{
		{"100 MB: the data stack", "import numpy, pandas, scipy, sklearn, matplotlib.pyplot\nstate = bytearray(1)"},
		{"and 100 MB more", "state = bytearray(__import__('numpy').random.default_rng(1).bytes(100 << 20)); import numpy, pandas, scipy, sklearn, matplotlib.pyplot"},
	} {
		if err := suspendAndFork(ctx, home, s, state.name, state.code); err != nil {
			return err
		}
	}

	small := benchSandbox{s: s}
	if err := small.create(ctx, nil); err != nil {
		return err
	}
	defer small.delete()
	if err := small.run(ctx, "import numpy, pandas, scipy, sklearn, matplotlib.pyplot\n1", "1"); err != nil {
		return err
	}
	if err := small.awaitSuspend(ctx); err != nil {
		return err
	}
	fmt.Printf("  %-44s %6.1f MB", "suspended, with the data stack imported", megabytes(home, small.id))
	time.Sleep(90 * time.Second)
	fmt.Printf(", %.1f MB after 90 s\n", megabytes(home, small.id))
	if suspended == 0 {
		return nil
	}
	return many(ctx, home, s, small, suspended)
}

// suspendAndFork runs code in a new sandbox, and measures suspend, resume and fork of this sandbox. The code must set the
// Python variable state.
func suspendAndFork(ctx context.Context, home string, s *mcpclient.Session, name, code string) error {
	original := benchSandbox{s: s}
	if err := original.create(ctx, nil); err != nil {
		return err
	}
	defer original.delete()
	if err := original.run(ctx, code+"\nlen(state) > 0", "True"); err != nil {
		return err
	}
	if err := row("resume to the first answer, "+name, 10, func() (err error) {
		untimed(func() { err = original.awaitSuspend(ctx) })
		if err != nil {
			return err
		}
		return original.run(ctx, "state[0] == state[0]", "True")
	}); err != nil {
		return err
	}
	took(home, original.id, "suspend (daemon's log), "+name, "a sandbox was suspended")
	fork := benchSandbox{s: s}
	return row("fork of a running sandbox, "+name, 10, func() (err error) {
		untimed(func() {
			err = original.run(ctx, "1", "1")
			time.Sleep(time.Second) // a model usually waits longer than a second between two calls
		})
		if err != nil {
			return err
		}
		if err := fork.create(ctx, args{"fork_of": original.id}); err != nil {
			return err
		}
		untimed(fork.delete)
		return nil
	})
}

// many makes n forks of the given sandbox and waits until all forks are suspended. It then prints the disk usage of the
// home's sandboxes, and measures one call to each fork, which resumes the fork.
func many(ctx context.Context, home string, s *mcpclient.Session, of benchSandbox, n int) error {
	forks := make([]benchSandbox, n)
	defer func() {
		for _, b := range forks {
			if b.id != "" {
				b.delete()
			}
		}
	}()
	started := time.Now()
	for i := range forks {
		forks[i] = benchSandbox{s: s}
		fork := args{"fork_of": of.id, "display_name": fmt.Sprint("fork ", i)}
		err := forks[i].create(ctx, fork)
		// If the disk limit is reached, the loop waits until the daemon has compressed some checkpoints.
		for err != nil && strings.Contains(err.Error(), "--max-disk") && time.Since(started) < time.Hour {
			time.Sleep(5 * time.Second)
			err = forks[i].create(ctx, fork)
		}
		if err != nil {
			return err
		}
		if err := forks[i].run(ctx, fmt.Sprintf("number = %d; number", i), fmt.Sprint(i)); err != nil {
			return err
		}
	}
	for _, b := range forks {
		if err := b.awaitSuspend(ctx); err != nil {
			return err
		}
	}
	fmt.Printf("  %d created and suspended after %.0f s\n", n, time.Since(started).Seconds())
	fmt.Printf("  %-44s %6.0f MB, %d processes\n", fmt.Sprintf("%d suspended", n), megabytes(home, ""), processes(home))
	i := 0
	return row(fmt.Sprintf("resume of each of %d to its first answer", n), n, func() error {
		err := forks[i].run(ctx, "number", fmt.Sprint(i))
		i++
		return err
	})
}

// benchSandbox is a sandbox that the benchmark suspends.
type benchSandbox struct {
	s  *mcpclient.Session
	id string
}

func (b *benchSandbox) create(ctx context.Context, a args) error {
	r, err := b.s.Must(ctx, "create_sandbox", a)
	if err == nil {
		b.id, _ = r.Structured["id"].(string)
	}
	return err
}

func (b *benchSandbox) delete() {
	_, _ = b.s.Call(context.Background(), "delete_sandbox", args{"sandbox_id": b.id})
}

func (b *benchSandbox) run(ctx context.Context, code, want string) error {
	r, err := b.s.Must(ctx, "execute_code", args{"sandbox_id": b.id, "code": code})
	if err == nil && !strings.Contains(r.Text, want) {
		err = fmt.Errorf("%s: got %q, want %q in it", code, r.Text, want)
	}
	return err
}

// awaitSuspend waits until the daemon has suspended the idle sandbox.
func (b *benchSandbox) awaitSuspend(ctx context.Context) error {
	for deadline := time.Now().Add(10 * time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		r, err := b.s.Must(ctx, "get_sandbox", args{"sandbox_id": b.id})
		if err != nil {
			return err
		}
		if r.Structured["state"] == "suspended" {
			return nil
		}
	}
	return fmt.Errorf("sandbox %s was not suspended within 10 minutes; the daemon's log says why", b.id)
}

// took reads the daemon's log lines that have the given message and sandbox id, and prints the median and the 95th
// percentile of their durations, under the given name.
func took(home, id, name, message string) {
	f, err := os.Open(filepath.Join(home, "sandboxd.log"))
	if err != nil {
		return
	}
	defer f.Close()
	var times []time.Duration
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var line struct {
			Msg     string
			Sandbox string
			Took    time.Duration
		}
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == message && line.Sandbox == id {
			times = append(times, line.Took)
		}
	}
	report(name, times)
}

func megabytes(home, id string) float64 {
	var n int64
	_ = filepath.WalkDir(filepath.Join(home, "gvisor/sandboxes", id), func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			n += info.Size()
		}
		return nil
	})
	return float64(n) / (1 << 20)
}

// processes returns the number of processes on this machine that belong to the gvisor sandboxes of the given home.
func processes(home string) (n int) {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range lines {
		if line, err := os.ReadFile(path); err == nil && strings.Contains(string(line), filepath.Join(home, "gvisor")) {
			n++
		}
	}
	return n
}

func report(name string, times []time.Duration) {
	if n := len(times); n > 0 {
		slices.Sort(times)
		fmt.Printf("  %-44s median %8.2f ms   p95 %8.2f ms   n=%d\n", name, ms(times[n/2]), ms(times[n*95/100]), n)
	}
}
