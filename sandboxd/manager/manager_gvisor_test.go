package manager_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/image"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/bundle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// gvisorEngine opens the embedded engine in a state directory of its own. At the end of the test it removes all
// remaining containers.
func gvisorEngine(t testing.TB) (eng *gvisor.Engine, ref string) {
	t.Helper()
	missing := func(why any) {
		if slices.Contains(strings.Split(os.Getenv("DORMOUSE_TEST_REQUIRE"), ","), "runsc") {
			t.Fatalf("runsc is required, and not there: %v", why)
		}
		t.Skipf("NOT TESTED: no runsc: %v", why)
	}
	if testing.Short() {
		t.Skip("needs an engine: not with -short")
	}
	runsc, err := filepath.Abs("../../bin/runsc")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(runsc); err != nil {
		missing("`make build` makes it")
	}
	dir, err := os.MkdirTemp("", "dm-") // a short path, as a real state directory has
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	eng, err = gvisor.New(t.Context(), gvisor.Config{Dir: dir, Bundle: bundle.Bundle{}, Runsc: runsc, WithoutCgroups: os.Geteuid() != 0})
	if err != nil {
		missing(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		left, _ := eng.List(ctx)
		for _, c := range left {
			_ = eng.Remove(ctx, c.ID)
		}
		_ = eng.Close()
	})
	if has, err := eng.HasImage(t.Context(), image.Ref()); err != nil || !has {
		missing("Dormouse's image is not unpacked: run `dormouse image build --engine gvisor`")
	}
	return eng, image.Ref()
}

// TestGvisor suspends a real sandbox, resumes it by many concurrent calls, forks it while it is suspended, and
// leaves it suspended while the daemon is killed and restarted. It checks that a Python generator in the memory
// of the sandbox always continues where it stopped.
func TestGvisor(t *testing.T) {
	eng, ref := gvisorEngine(t)
	ctx := t.Context()
	short := func(c *manager.Config) { c.DefaultImage, c.IdleSuspend = ref, time.Second }
	d := start(t, filepath.Join(t.TempDir(), "a.db"), eng, short)
	sb := d.create(t, sandbox.CreateRequest{MemoryMB: 1024})
	d.prints(t, sb.ID, "g = iter(range(100)); print(next(g))", "0")
	asleep := func(id sandbox.ID) {
		t.Helper()
		eventually(t, "it sleeps", func() bool {
			got, err := d.Get(ctx, string(id))
			return err == nil && got.State == sandbox.Suspended
		})
	}
	asleep(sb.ID)
	began := time.Now()
	var calls sync.WaitGroup
	for range 20 {
		calls.Go(func() { d.run(t, sb.ID, "next(g)", 30) })
	}
	calls.Wait()
	t.Logf("woken, and 20 calls answered, in %v", time.Since(began))
	d.prints(t, sb.ID, "print(next(g))", "21")
	asleep(sb.ID)
	began = time.Now()
	fork := d.create(t, sandbox.CreateRequest{ForkOf: string(sb.ID)})
	t.Logf("forked asleep in %v", time.Since(began))
	d.prints(t, fork.ID, "print(next(g))", "22")
	asleep(fork.ID)

	copied := crash(t, d)
	d = start(t, copied, eng, short)
	defer func() { d.stop(t) }()
	asleep(sb.ID)
	d.prints(t, sb.ID, "print(next(g))", "22")
	d.prints(t, fork.ID, "print(next(g))", "23")
	for _, id := range []sandbox.ID{sb.ID, fork.ID} {
		if err := d.Delete(ctx, string(id)); err != nil {
			t.Errorf("Delete() = %v", err)
		}
	}
	if left, err := eng.List(ctx); err != nil || len(left) != 0 {
		t.Errorf("List() = %+v, %v, want none", left, err)
	}
}

// TestGvisorSnapshot checks sandboxes that start from a snapshot. They must have the same hash seed, which a
// Python process chooses when it starts, because this shows that they come from one snapshot. The states of
// their random number generators must differ.
func TestGvisorSnapshot(t *testing.T) {
	eng, ref := gvisorEngine(t)
	d := start(t, filepath.Join(t.TempDir(), "a.db"), eng, func(c *manager.Config) { c.DefaultImage = ref })
	defer func() { d.stop(t) }()
	says := func(id sandbox.ID, code string) string {
		t.Helper()
		e := d.run(t, id, code, 60)
		if e.State != sandbox.ExecSucceeded || e.KernelEpoch != 1 || e.Interlude != nil {
			t.Errorf("%s: %+v, want it to succeed in epoch 1 and nothing said of before", code, e)
		}
		return output(e)
	}
	made := func() (id sandbox.ID, seed string) {
		sb := d.create(t, sandbox.CreateRequest{})
		t.Cleanup(func() { _ = d.Delete(context.WithoutCancel(t.Context()), string(sb.ID)) })
		return sb.ID, says(sb.ID, "print(hash('dormouse'))")
	}
	_, first := made()
	var ids [2]sandbox.ID
	var seed string
	within(t, 3*time.Minute, "two sandboxes start from the same snapshot", func() bool {
		time.Sleep(time.Second) // give the daemon time to make the snapshot
		var seeds [2]string
		for i := range ids {
			ids[i], seeds[i] = made()
		}
		seed = seeds[0]
		return seed == seeds[1] && seed != first
	})
	const random = "import random, uuid, os, secrets; print(random.random(), uuid.uuid4(), secrets.token_hex(8))"
	if got := says(ids[0], "import sys; print('pandas' in sys.modules, 'pandas' in globals())"); got != "True False\n" {
		t.Errorf("what is imported ahead, and named: %q, want True False", got)
	}
	if a, b := says(ids[0], random), says(ids[1], random); a == b {
		t.Errorf("both print %q", a)
	}
	// The sandboxes of the next daemon start from the same snapshot.
	d.stop(t)
	d = start(t, filepath.Join(t.TempDir(), "b.db"), eng, func(c *manager.Config) { c.DefaultImage = ref })
	if _, next := made(); next != seed {
		t.Errorf("the next daemon's sandbox has %q, want the snapshot's %q", next, seed)
	}
}

func (d *daemon) prints(t testing.TB, id sandbox.ID, code, want string) {
	t.Helper()
	began := time.Now()
	e := d.run(t, id, code, 60)
	if got := strings.TrimSpace(output(e)); got != want || e.KernelEpoch != 1 {
		t.Errorf("%s prints %q in epoch %d, want %q in 1", code, got, e.KernelEpoch, want)
	}
	t.Logf("%s: %v", code, time.Since(began))
}
