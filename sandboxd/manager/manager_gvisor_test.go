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
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
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
			t.Fatalf("runsc is required (DORMOUSE_TEST_REQUIRE) but not available: %v", why)
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
		missing("build it with `make build`")
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
		remaining, _ := eng.List(ctx)
		for _, c := range remaining {
			_ = eng.Remove(ctx, c.ID)
		}
		_ = eng.Close()
	})
	if has, err := eng.HasImage(t.Context(), image.Ref()); err != nil || !has {
		missing("Dormouse's image is not unpacked: run `dormouse image build --engine gvisor`")
	}
	return eng, image.Ref()
}

// TestGvisorLifeCycle suspends a real sandbox, resumes it by many concurrent calls, forks it while it is suspended, and
// leaves it suspended while the daemon is killed and restarted. It checks that a Python generator in the memory
// of the sandbox always continues where it stopped.
func TestGvisorLifeCycle(t *testing.T) {
	eng, ref := gvisorEngine(t)
	ctx := t.Context()
	short := func(c *manager.Config) { c.DefaultImage, c.IdleSuspend = ref, time.Second }
	d := startDaemon(t, filepath.Join(t.TempDir(), "a.db"), eng, short)
	sb := d.create(t, sandbox.CreateRequest{MemoryMB: 1024})
	d.wantOutput(t, sb.ID, "g = iter(range(100)); print(next(g))", "0")
	waitSuspended := func(id sandbox.ID) {
		t.Helper()
		waitUntil(t, "the sandbox is suspended", func() bool {
			got, err := d.Get(ctx, string(id))
			return err == nil && got.State == sandbox.Suspended
		})
	}
	waitSuspended(sb.ID)
	began := time.Now()
	var calls sync.WaitGroup
	for range 20 {
		calls.Go(func() { d.execute(t, sb.ID, "next(g)", 30) })
	}
	calls.Wait()
	t.Logf("resumed, and 20 calls answered, in %v", time.Since(began))
	d.wantOutput(t, sb.ID, "print(next(g))", "21")
	waitSuspended(sb.ID)
	began = time.Now()
	fork := d.create(t, sandbox.CreateRequest{ForkOf: string(sb.ID)})
	t.Logf("forked while suspended in %v", time.Since(began))
	d.wantOutput(t, fork.ID, "print(next(g))", "22")
	waitSuspended(fork.ID)

	path := crash(t, d)
	d = startDaemon(t, path, eng, short)
	defer func() { d.stop(t) }()
	waitSuspended(sb.ID)
	d.wantOutput(t, sb.ID, "print(next(g))", "22")
	d.wantOutput(t, fork.ID, "print(next(g))", "23")
	for _, id := range []sandbox.ID{sb.ID, fork.ID} {
		if err := d.Delete(ctx, string(id)); err != nil {
			t.Errorf("Delete() = %v", err)
		}
	}
	if all, err := eng.List(ctx); err != nil || len(all) != 0 {
		t.Errorf("List() = %+v, %v, want no containers", all, err)
	}
}

// delayedSnapshots is an engine that makes snapshots only when the channel allowed is closed. It sends the result of each
// call of Snapshot to attempts, if there is space.
type delayedSnapshots struct {
	*gvisor.Engine
	allowed  chan struct{}
	attempts chan error
}

func (s delayedSnapshots) Snapshot(ctx context.Context, spec engine.Spec, ready func(context.Context) error) error {
	select {
	case <-s.allowed:
	case <-ctx.Done():
		return ctx.Err()
	}
	err := s.Engine.Snapshot(ctx, spec, ready)
	select {
	case s.attempts <- err:
	default:
	}
	return err
}

// TestGvisorSandboxesStartFromSnapshot checks sandboxes that start from a snapshot. They must have the same hash
// seed, which a Python process chooses when it starts, because this shows that they come from one snapshot. The
// states of their random number generators must differ.
func TestGvisorSandboxesStartFromSnapshot(t *testing.T) {
	gvisorEng, ref := gvisorEngine(t)
	eng := delayedSnapshots{gvisorEng, make(chan struct{}), make(chan error, 1)}
	d := startDaemon(t, filepath.Join(t.TempDir(), "a.db"), eng, func(c *manager.Config) { c.DefaultImage = ref })
	defer func() { d.stop(t) }()
	execute := func(id sandbox.ID, code string) string {
		t.Helper()
		e := d.execute(t, id, code, 60)
		if e.State != sandbox.ExecSucceeded || e.KernelEpoch != 1 || e.Interlude != nil {
			t.Errorf("%s: %+v, want it succeeded in epoch 1, without a report of earlier output", code, e)
		}
		return output(e)
	}
	createSandbox := func() (id sandbox.ID, seed string) {
		sb := d.create(t, sandbox.CreateRequest{})
		t.Cleanup(func() { _ = d.Delete(context.WithoutCancel(t.Context()), string(sb.ID)) })
		return sb.ID, execute(sb.ID, "print(hash('dormouse'))")
	}
	_, first := createSandbox()
	close(eng.allowed)
	select {
	case err := <-eng.attempts:
		if err != nil {
			t.Fatalf("Snapshot() = %v, want no error", err)
		}
	case <-time.After(5 * time.Minute):
		t.Fatal("the daemon has not made a snapshot after five minutes")
	}
	var ids [2]sandbox.ID
	var seeds [2]string
	for i := range ids {
		ids[i], seeds[i] = createSandbox()
	}
	seed := seeds[0]
	if seed != seeds[1] || seed == first {
		t.Errorf("the hashes are %q after the snapshot and %q before it, want two equal ones that differ from the one before", seeds, first)
	}
	const random = "import random, uuid, os, secrets; print(random.random(), uuid.uuid4(), secrets.token_hex(8))"
	if got := execute(ids[0], "import sys; print('pandas' in sys.modules, 'pandas' in globals())"); got != "True False\n" {
		t.Errorf("pandas is imported, and is a global name: %q, want True False", got)
	}
	if a, b := execute(ids[0], random), execute(ids[1], random); a == b {
		t.Errorf("both sandboxes print %q, want different random values", a)
	}
	// The sandboxes of the next daemon start from the same snapshot.
	d.stop(t)
	d = startDaemon(t, filepath.Join(t.TempDir(), "b.db"), eng, func(c *manager.Config) { c.DefaultImage = ref })
	if _, next := createSandbox(); next != seed {
		t.Errorf("the hash in the next daemon's sandbox is %q, want %q as in the snapshot", next, seed)
	}
}

// wantOutput runs code and checks what it prints, and that its kernel has the epoch 1.
func (d *daemon) wantOutput(t testing.TB, id sandbox.ID, code, want string) {
	t.Helper()
	began := time.Now()
	e := d.execute(t, id, code, 60)
	if got := strings.TrimSpace(output(e)); got != want || e.KernelEpoch != 1 {
		t.Errorf("%s prints %q in epoch %d, want %q in 1", code, got, e.KernelEpoch, want)
	}
	t.Logf("%s: %v", code, time.Since(began))
}
