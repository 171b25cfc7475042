package manager_test

import (
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/fake"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestIdlestSandboxIsSuspendedForCapacity checks that suspended sandboxes do not occupy capacity. If there is no
// capacity to resume or create a sandbox, the manager suspends the sandbox that has been idle longest. If no
// sandbox is idle, the call is refused and no sandbox is terminated.
func TestIdlestSandboxIsSuspendedForCapacity(t *testing.T) {
	for name, limit := range map[string]func(*manager.Config){
		"MaxSandboxes": func(c *manager.Config) { c.MaxSandboxes = 2 },
		"MaxMemory":    func(c *manager.Config) { c.MaxMemory = 2 * 512 * sandbox.MiB },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDaemon(t, withSuspend, limit)
				var ids []sandbox.ID
				for range 4 {
					ids = append(ids, d.create(t, sandbox.CreateRequest{MemoryMB: 512}).ID)
					advance(time.Second)
				}
				for i, want := range []sandbox.State{sandbox.Suspended, sandbox.Suspended, sandbox.Running, sandbox.Running} {
					d.wantState(t, fmt.Sprintf("sandbox %d of 4", i+1), ids[i], want)
				}
				d.execute(t, ids[2], "print x", 5)
				advance(time.Second)
				d.execute(t, ids[0], "print x", 5)
				d.wantState(t, "the sandbox that was used later", ids[2], sandbox.Running)
				d.wantState(t, "the sandbox that was used earlier", ids[3], sandbox.Suspended)
				d.execute(t, ids[0], "sleep 1h", 0)
				busy := d.execute(t, ids[2], "sleep 1h", 0)
				_, err := d.Execute(t.Context(), string(ids[1]), sandbox.ExecuteRequest{Code: "print x"})
				wantError(t, "Execute", err, sandbox.Limit, "cannot be resumed now", "--max-", "Nothing of it is lost")
				_, err = d.Create(t.Context(), sandbox.CreateRequest{MemoryMB: 512})
				wantError(t, "Create", err, sandbox.Limit, "--max-")
				if _, err := d.Interrupt(t.Context(), string(busy.ID)); err != nil {
					t.Fatal(err)
				}
				if e := d.execute(t, ids[1], "print x", 5); output(e) != "x" {
					t.Errorf("output = %q, want x", output(e))
				}
			})
		})
	}
}

// TestPausedSandboxOccupiesCapacity checks that a paused sandbox occupies capacity, because it keeps its memory.
func TestPausedSandboxOccupiesCapacity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon(t, withSuspend, func(c *manager.Config) { c.MaxSandboxes = 1 })
		d.eng.Set(func() { d.eng.Suspension = engine.Paused })
		sb, _ := d.createSuspended(t, sandbox.CreateRequest{})
		if got, err := d.Get(t.Context(), string(sb.ID)); err != nil || got.SuspendedTo != "pause" {
			t.Errorf("Get() = %+v, %v, want it paused", got, err)
		}
		_, err := d.Create(t.Context(), sandbox.CreateRequest{})
		wantError(t, "Create", err, sandbox.Limit, "--max-sandboxes")
		d.execute(t, sb.ID, "print x", 5)
	})
}

// TestFiveHundredSandboxesCanBeSuspended checks that with the default limits 500 sandboxes can be suspended at the
// same time, that they are still suspended after a restart of the daemon, and that each can be used afterwards.
func TestFiveHundredSandboxesCanBeSuspended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const count = 500
		before := runtime.NumGoroutine()
		eng := fake.NewEngine()
		defer eng.Close()
		eng.StateBytes = 40 * sandbox.MiB
		limits := func(c *manager.Config) {
			c.IdleSuspend, c.CheckpointEvery, c.MaxDisk = idleSuspend, checkpointEvery, 20<<30
		}
		d := startDaemon(t, filepath.Join(t.TempDir(), "a.db"), eng, limits)
		ids := make([]sandbox.ID, count)
		each := func(do func(i int)) {
			var clients sync.WaitGroup
			for client := range 8 {
				clients.Go(func() {
					for i := client; i < count; i += 8 {
						do(i)
					}
				})
			}
			clients.Wait()
		}
		each(func(i int) {
			ids[i] = d.create(t, sandbox.CreateRequest{}).ID
			d.writeFile(t, ids[i], "name", fmt.Sprint(i))
		})
		advance(2 * idleSuspend)
		goroutines := runtime.NumGoroutine() - before
		path := crash(t, d)
		d = startDaemon(t, path, eng, limits)
		defer func() { d.stop(t) }()
		suspended, req := 0, sandbox.ListRequest{State: sandbox.Suspended, PageSize: 100}
		for {
			page, err := d.List(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			suspended += len(page.Sandboxes)
			if req.PageToken = page.NextPageToken; req.PageToken == "" {
				break
			}
		}
		if suspended != count {
			t.Fatalf("%d sandboxes are suspended, want %d", suspended, count)
		}
		if goroutines > count+50 { // each test guest has one goroutine; a suspended sandbox needs none in the daemon
			t.Errorf("%d goroutines while all sandboxes are suspended, want at most %d", goroutines, count+50)
		}
		each(func(i int) { d.wantFile(t, ids[i], "name", fmt.Sprint(i)) })
	})
}

// TestCheckpointsStayWithinMaxDisk checks that checkpoints use no more disk space than MaxDisk. Checkpoints of
// running sandboxes are discarded first. If that frees too little space, idle sandboxes keep running, and Warnings
// reports that. They are suspended when there is space again.
func TestCheckpointsStayWithinMaxDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 12345 // the memory usage that the test guest reports
		d := newDaemon(t, withCheckpoints, func(c *manager.Config) { c.MaxDisk = 3*size + 1 })
		d.eng.StateBytes = size
		var ids []sandbox.ID
		for range 5 {
			ids = append(ids, d.create(t, sandbox.CreateRequest{}).ID)
			advance(time.Second)
		}
		advance(2 * checkpointEvery)
		countCheckpoints := func() (n int) {
			for _, id := range ids {
				if got, err := d.Get(t.Context(), string(id)); err == nil && !got.SavedTime.IsZero() {
					n++
				}
			}
			return n
		}
		if n := countCheckpoints(); n != 3 {
			t.Errorf("%d of 5 sandboxes have a checkpoint, want 3", n)
		}
		if len(d.Warnings()) != 1 {
			t.Errorf("Warnings() = %q, want one warning", d.Warnings())
		}
		advance(idleSuspend)
		states := map[sandbox.State]int{}
		for _, id := range ids {
			got, _ := d.Get(t.Context(), string(id))
			states[got.State]++
		}
		if states[sandbox.Suspended] != 3 || states[sandbox.Running] != 2 {
			t.Errorf("states = %v, want 3 suspended and 2 running", states)
		}
		total := int64(0)
		all, _ := d.eng.List(t.Context())
		for _, c := range all {
			total += c.StateBytes
		}
		if total > 3*size+1 {
			t.Errorf("the checkpoints use %d bytes, want at most %d", total, 3*size+1)
		}
		advance(90 * time.Minute) // longer than lastBackoff: the delay between attempts must not grow while the disk is full
		for _, id := range ids {
			if got, _ := d.Get(t.Context(), string(id)); got.State == sandbox.Suspended {
				if err := d.Delete(t.Context(), string(id)); err != nil {
					t.Fatal(err)
				}
				break
			}
		}
		advance(2 * time.Minute)
		page, err := d.List(t.Context(), sandbox.ListRequest{State: sandbox.Suspended})
		if err != nil || len(page.Sandboxes) != 3 {
			t.Errorf("%d sandboxes are suspended after space was freed, %v, want 3", len(page.Sandboxes), err)
		}
	})
}

// TestCapacityErrorNamesFullDisk checks the error of a request that gets no capacity because no sandbox can be
// suspended while checkpoints use all the disk space that MaxDisk allows. The error must name that limit.
func TestCapacityErrorNamesFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon(t, withSuspend, func(c *manager.Config) { c.MaxDisk, c.MaxSandboxes = 20_000, 2 })
		d.eng.StateBytes = 12345
		first := d.create(t, sandbox.CreateRequest{}).ID
		advance(2 * idleSuspend)
		d.create(t, sandbox.CreateRequest{})
		d.create(t, sandbox.CreateRequest{})
		advance(2 * idleSuspend)
		_, err := d.Create(t.Context(), sandbox.CreateRequest{})
		wantError(t, "Create", err, sandbox.Limit, "--max-sandboxes", "--max-disk")
		_, err = d.Execute(t.Context(), string(first), sandbox.ExecuteRequest{Code: "print x"})
		wantError(t, "Execute", err, sandbox.Limit, "--max-sandboxes", "--max-disk", "Nothing of it is lost")
	})
}

// TestCheckpointIsDiscardedForSuspend checks that the checkpoint of a running sandbox is discarded if another
// sandbox needs its space to be suspended.
func TestCheckpointIsDiscardedForSuspend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon(t, withCheckpoints, func(c *manager.Config) { c.MaxDisk = 20_000 })
		d.eng.StateBytes = 12345
		used := d.create(t, sandbox.CreateRequest{}).ID
		advance(2 * checkpointEvery)
		other := d.create(t, sandbox.CreateRequest{}).ID
		for range 6 {
			d.writeFile(t, used, "a", "x") // so this sandbox is never idle long enough to be suspended
			advance(checkpointEvery)
		}
		d.wantState(t, "the idle sandbox", other, sandbox.Suspended)
		d.wantState(t, "the used sandbox", used, sandbox.Running)
		if _, n := d.eng.Checkpoints(); n == 0 {
			t.Error("no checkpoint was discarded, want at least one")
		}
		if got, _ := d.Get(t.Context(), string(used)); !got.SavedTime.IsZero() {
			t.Errorf("saved_time = %v, want zero, because the checkpoint was discarded", got.SavedTime)
		}
	})
}
