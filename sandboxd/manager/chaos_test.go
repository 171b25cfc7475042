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

// TestChaos lets several clients make random calls. In the meantime connections break, containers stop, the
// power fails, sandboxes are suspended and resumed, which fails at random, and the daemon is killed twice. At
// the end it checks that each running sandbox has a container, that each container belongs to a running sandbox,
// that no uid is used twice, and that each execution has a record, is final and ran at most once.
func TestChaos(t *testing.T) {
	goroutines := runtime.NumGoroutine()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	eng, path := fake.NewEngine(), filepath.Join(t.TempDir(), "a.db")
	var mu sync.Mutex
	var boxes []sandbox.ID
	runs := map[sandbox.ExecutionID]bool{}
	for round := range uint64(3) {
		eng.Set(func() { eng.Flaky = rand.New(rand.NewPCG(seed, 100+round)) })
		d := start(t, path, eng, func(c *manager.Config) {
			c.MaxSandboxes, c.MaxMemory, c.IdleSuspend, c.CheckpointEvery = 12<<(2*round), 1<<40, 4*time.Millisecond, 2*time.Millisecond
		})
		var wg sync.WaitGroup
		for client := range uint64(6) {
			r := rand.New(rand.NewPCG(seed, round*10+client))
			wg.Go(func() {
				for range 40 {
					mu.Lock()
					var id sandbox.ID
					if len(boxes) > 0 {
						id = boxes[r.IntN(len(boxes))]
					}
					mu.Unlock()
					var err error
					switch r.IntN(12) {
					case 0, 1:
						var sb sandbox.Sandbox
						if sb, err = d.Create(t.Context(), sandbox.CreateRequest{MemoryMB: 128}); err == nil {
							mu.Lock()
							boxes = append(boxes, sb.ID)
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
							g.Cut()
						}
					case 5:
						if r.IntN(8) == 0 {
							eng.PowerCut()
						} else if eng.Guest(id) != nil && r.IntN(4) == 0 {
							eng.Die(id, "killed")
						}
					default:
						code := []string{"print x", "sleep 5ms", "count 3 1ms", "sleep 1h"}[min(r.IntN(20), 3)]
						if code == "sleep 1h" && r.IntN(3) > 0 {
							code = "print y"
						}
						var e sandbox.Execution
						if e, err = d.Execute(t.Context(), string(id), sandbox.ExecuteRequest{Code: code, WaitSeconds: r.Float64() / 50}); err == nil {
							mu.Lock()
							runs[e.ID] = true
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
		eng.Set(func() { eng.Flaky = nil })
		if round < 2 {
			path = crash(t, d)
			continue
		}
		suspends, resumes := eng.Suspends()
		t.Logf("suspended %d times, resumed %d times", suspends, resumes)
		checkChaos(t, d, runs)
		d.stop(t)
	}
	_ = eng.Close()
	eventually(t, "all goroutines have ended", func() bool { return runtime.NumGoroutine() <= goroutines+2 })
}

func checkChaos(t *testing.T, d *daemon, runs map[sandbox.ExecutionID]bool) {
	t.Helper()
	// Call Get for each sandbox, because Get detects that a container has stopped.
	for _, id := range d.all(t) {
		if _, err := d.Get(t.Context(), string(id)); err != nil && sandbox.KindOf(err) != sandbox.NotFound {
			t.Errorf("Get() = %v", err)
		}
	}
	running := d.all(t)
	containers := d.eng.IDs()
	slices.Sort(running)
	slices.Sort(containers)
	if !slices.Equal(running, containers) {
		t.Errorf("running sandboxes %v, containers %v, want the same", running, containers)
	}
	for id := range runs {
		e, err := d.Interrupt(t.Context(), string(id))
		if err != nil || !e.State.Final() {
			t.Errorf("Interrupt(%s) = %+v, %v, want it final", id, e, err)
		}
	}
	if err := errors.Join(d.store.Flush()); err != nil {
		t.Error(err)
	}
	eventually(t, "each execution's end is on record", func() bool {
		left, err := d.store.Unfinished(t.Context())
		return err == nil && len(left) == 0
	})
}

// all returns the sandboxes that have not been terminated.
func (d *daemon) all(t *testing.T) (ids []sandbox.ID) {
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
