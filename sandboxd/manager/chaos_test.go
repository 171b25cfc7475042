package manager_test

import (
	"errors"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/manager"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/fake"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestInvariantsHoldDuringChaos lets several clients make random calls. At the same time connections break,
// containers stop, the power fails, the engine fails at random to suspend and resume sandboxes, and the daemon is
// killed twice. At the end it checks that each running sandbox has a container, that each container belongs to a
// running sandbox, that no uid is used twice, and that each execution has a record, is final and ran at most once.
func TestInvariantsHoldDuringChaos(t *testing.T) {
	goroutines := runtime.NumGoroutine()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	eng, path := fake.NewEngine(), filepath.Join(t.TempDir(), "a.db")
	var mu sync.Mutex
	var sandboxes []sandbox.ID
	accepted := map[sandbox.ExecutionID]bool{}
	for round := range uint64(3) {
		eng.Set(func() { eng.FailRandomly = rand.New(rand.NewPCG(seed, 100+round)) })
		d := startDaemon(t, path, eng, func(c *manager.Config) {
			c.MaxSandboxes, c.MaxMemory, c.IdleSuspend, c.CheckpointEvery = 12<<(2*round), 1<<40, 4*time.Millisecond, 2*time.Millisecond
		})
		var wg sync.WaitGroup
		for client := range uint64(6) {
			r := rand.New(rand.NewPCG(seed, round*10+client))
			wg.Go(func() {
				for range 40 {
					mu.Lock()
					var id sandbox.ID
					if len(sandboxes) > 0 {
						id = sandboxes[r.IntN(len(sandboxes))]
					}
					mu.Unlock()
					var err error
					switch r.IntN(12) {
					case 0, 1:
						var sb sandbox.Sandbox
						if sb, err = d.Create(t.Context(), sandbox.CreateRequest{MemoryMB: 128}); err == nil {
							mu.Lock()
							sandboxes = append(sandboxes, sb.ID)
							mu.Unlock()
						}
					case 2:
						if r.IntN(3) == 0 {
							err = d.Delete(t.Context(), string(id))
						}
					case 3:
						_, err = d.Update(t.Context(), string(id), sandbox.UpdateRequest{TTL: new(ttl(time.Hour))})
					case 4:
						if g := eng.Guest(id); g != nil {
							g.BreakConnections()
						}
					case 5:
						if r.IntN(8) == 0 {
							eng.PowerCut()
						} else if eng.Guest(id) != nil && r.IntN(4) == 0 {
							eng.KillContainer(id, "killed")
						}
					default:
						code := []string{"print x", "sleep 5ms", "count 3 1ms", "sleep 1h"}[min(r.IntN(20), 3)]
						if code == "sleep 1h" && r.IntN(3) > 0 {
							code = "print y"
						}
						var e sandbox.Execution
						if e, err = d.Execute(t.Context(), string(id), sandbox.ExecuteRequest{Code: code, WaitSeconds: r.Float64() / 50}); err == nil {
							mu.Lock()
							accepted[e.ID] = true
							mu.Unlock()
						}
					}
					if sandbox.KindOf(err) == sandbox.Internal && err != nil {
						t.Errorf("seed %d: an internal error: %v", seed, err)
					}
				}
			})
		}
		wg.Wait()
		eng.Set(func() { eng.FailRandomly = nil })
		if round < 2 {
			path = crash(t, d)
			continue
		}
		suspends, resumes := eng.Suspends()
		t.Logf("suspended %d times, resumed %d times", suspends, resumes)
		checkInvariants(t, d, accepted)
		d.stop(t)
	}
	_ = eng.Close()
	waitUntil(t, "all goroutines have ended", func() bool { return runtime.NumGoroutine() <= goroutines+2 })
}

// checkInvariants checks the invariants of [TestInvariantsHoldDuringChaos]. accepted contains the ids of the accepted
// executions.
func checkInvariants(t *testing.T, d *daemon, accepted map[sandbox.ExecutionID]bool) {
	t.Helper()
	// Call Get for each sandbox, because Get detects that a container has stopped.
	for _, id := range d.listPresent(t) {
		if _, err := d.Get(t.Context(), string(id)); err != nil && sandbox.KindOf(err) != sandbox.NotFound {
			t.Errorf("Get(%s) = %v, want no error or not found", id, err)
		}
	}
	running := d.listPresent(t)
	containers := d.eng.IDs()
	slices.Sort(running)
	slices.Sort(containers)
	if !slices.Equal(running, containers) {
		t.Errorf("running sandboxes %v, containers %v, want the same", running, containers)
	}
	for id := range accepted {
		e, err := d.Interrupt(t.Context(), string(id))
		if err != nil || !e.State.Final() {
			t.Errorf("Interrupt(%s) = %+v, %v, want it final", id, e, err)
		}
	}
	if err := errors.Join(d.store.Flush()); err != nil {
		t.Error(err)
	}
	waitUntil(t, "the end of each execution is on record", func() bool {
		unfinished, err := d.store.Unfinished(t.Context())
		return err == nil && len(unfinished) == 0
	})
}

// listPresent returns the sandboxes that have not been terminated.
func (d *daemon) listPresent(t *testing.T) (ids []sandbox.ID) {
	t.Helper()
	for req := (sandbox.ListRequest{PageSize: 100}); ; {
		page, err := d.List(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, sb := range page.Sandboxes {
			ids = append(ids, sb.ID)
		}
		if req.PageToken = page.NextPageToken; req.PageToken == "" {
			return ids
		}
	}
}
