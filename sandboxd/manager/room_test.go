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

// TestRoomToWake checks that suspended sandboxes do not occupy capacity. If there is no capacity to resume or
// create a sandbox, the manager suspends the sandbox that has been idle longest. If no sandbox is idle, the call
// is refused and no sandbox is terminated.
func TestRoomToWake(t *testing.T) {
	for name, limit := range map[string]func(*manager.Config){
		"number": func(c *manager.Config) { c.MaxSandboxes = 2 },
		"memory": func(c *manager.Config) { c.MaxMemory = 2 * 512 * sandbox.MiB },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := bubble(t, sleepy, limit)
				var ids []sandbox.ID
				for range 4 {
					ids = append(ids, d.create(t, sandbox.CreateRequest{MemoryMB: 512}).ID)
					wait(time.Second)
				}
				for i, want := range []sandbox.State{sandbox.Suspended, sandbox.Suspended, sandbox.Running, sandbox.Running} {
					d.wantState(t, fmt.Sprintf("number %d of 4", i), ids[i], want)
				}
				d.run(t, ids[2], "print x", 5)
				wait(time.Second)
				d.run(t, ids[0], "print x", 5)
				d.wantState(t, "used a while ago", ids[2], sandbox.Running)
				d.wantState(t, "used before that", ids[3], sandbox.Suspended)
				d.run(t, ids[0], "sleep 1h", 0)
				busy := d.run(t, ids[2], "sleep 1h", 0)
				_, err := d.Execute(t.Context(), string(ids[1]), sandbox.ExecuteRequest{Code: "print x"})
				wantError(t, "Execute", err, sandbox.Limit, "cannot be resumed now", "--max-", "Nothing of it is lost")
				_, err = d.Create(t.Context(), sandbox.CreateRequest{MemoryMB: 512})
				wantError(t, "Create", err, sandbox.Limit, "--max-")
				if _, err := d.Interrupt(t.Context(), string(busy.ID)); err != nil {
					t.Fatal(err)
				}
				if e := d.run(t, ids[1], "print x", 5); output(e) != "x" {
					t.Errorf("output = %q, want x", output(e))
				}
			})
		})
	}
}

// TestPausedTakesRoom checks that a paused sandbox occupies capacity, because it keeps its memory.
func TestPausedTakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := bubble(t, sleepy, func(c *manager.Config) { c.MaxSandboxes = 1 })
		d.eng.Set(func() { d.eng.Suspension = engine.Paused })
		sb, _ := d.asleep(t, sandbox.CreateRequest{})
		if got, err := d.Get(t.Context(), string(sb.ID)); err != nil || got.SuspendedTo != "pause" {
			t.Errorf("Get() = %+v, %v, want it paused", got, err)
		}
		_, err := d.Create(t.Context(), sandbox.CreateRequest{})
		wantError(t, "Create", err, sandbox.Limit, "--max-sandboxes")
		d.run(t, sb.ID, "print x", 5)
	})
}

// TestFiveHundredSleep checks that with the default limits 500 sandboxes can be suspended at the same time, that
// they are still suspended after a restart of the daemon, and that each can be used afterwards.
func TestFiveHundredSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many = 500
		before := runtime.NumGoroutine()
		eng := fake.NewEngine()
		defer eng.Close()
		eng.StateBytes = 40 * sandbox.MiB
		limits := func(c *manager.Config) {
			c.IdleSuspend, c.CheckpointEvery, c.MaxDisk = idle, saveEvery, 20<<30
		}
		d := start(t, filepath.Join(t.TempDir(), "a.db"), eng, limits)
		ids := make([]sandbox.ID, many)
		each := func(do func(i int)) {
			var clients sync.WaitGroup
			for client := range 8 {
				clients.Go(func() {
					for i := client; i < many; i += 8 {
						do(i)
					}
				})
			}
			clients.Wait()
		}
		each(func(i int) {
			ids[i] = d.create(t, sandbox.CreateRequest{}).ID
			d.writes(t, ids[i], "name", fmt.Sprint(i))
		})
		wait(2 * idle)
		goroutines := runtime.NumGoroutine() - before
		path := crash(t, d)
		d = start(t, path, eng, limits)
		defer func() { d.stop(t) }()
		asleep, req := 0, sandbox.ListRequest{State: sandbox.Suspended, PageSize: 100}
		for {
			page, err := d.List(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			asleep += len(page.Sandboxes)
			if req.PageToken = page.NextPageToken; req.PageToken == "" {
				break
			}
		}
		if asleep != many {
			t.Fatalf("%d sleep, want %d", asleep, many)
		}
		if goroutines > many+50 { // each test guest has one goroutine; a suspended sandbox needs none in the daemon
			t.Errorf("%d goroutines when all slept, want none for each", goroutines)
		}
		each(func(i int) { d.reads(t, ids[i], "name", fmt.Sprint(i)) })
	})
}

// TestMaxDisk checks that checkpoints use no more disk space than MaxDisk. Checkpoints of running sandboxes are
// discarded first. If that frees too little space, idle sandboxes keep running, and Warnings reports that. They
// are suspended when there is space again.
func TestMaxDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 12345 // the memory usage that the test guest reports
		d := bubble(t, saving, func(c *manager.Config) { c.MaxDisk = 3*size + 1 })
		d.eng.StateBytes = size
		var ids []sandbox.ID
		for range 5 {
			ids = append(ids, d.create(t, sandbox.CreateRequest{}).ID)
			wait(time.Second)
		}
		wait(2 * saveEvery)
		saved := func() (n int) {
			for _, id := range ids {
				if got, err := d.Get(t.Context(), string(id)); err == nil && !got.SavedTime.IsZero() {
					n++
				}
			}
			return n
		}
		if n := saved(); n != 3 {
			t.Errorf("%d of 5 are saved, want 3", n)
		}
		if len(d.Warnings()) != 1 {
			t.Errorf("Warnings() = %q, want one", d.Warnings())
		}
		wait(idle)
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
			t.Errorf("saved states take %d bytes, want at most %d", total, 3*size+1)
		}
		wait(90 * time.Minute) // longer than lastPutOff: the delay between attempts must not grow while the disk is full
		for _, id := range ids {
			if got, _ := d.Get(t.Context(), string(id)); got.State == sandbox.Suspended {
				if err := d.Delete(t.Context(), string(id)); err != nil {
					t.Fatal(err)
				}
				break
			}
		}
		wait(2 * time.Minute)
		page, err := d.List(t.Context(), sandbox.ListRequest{State: sandbox.Suspended})
		if err != nil || len(page.Sandboxes) != 3 {
			t.Errorf("%d sleep when there is room, %v, want 3", len(page.Sandboxes), err)
		}
	})
}

// TestNoRoomForWantOfDisk checks the error of a request for which there is no capacity, because no sandbox can
// be suspended while the disk space for checkpoints is used up. The error must state that.
func TestNoRoomForWantOfDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := bubble(t, sleepy, func(c *manager.Config) { c.MaxDisk, c.MaxSandboxes = 20_000, 2 })
		d.eng.StateBytes = 12345
		first := d.create(t, sandbox.CreateRequest{}).ID
		wait(2 * idle)
		d.create(t, sandbox.CreateRequest{})
		d.create(t, sandbox.CreateRequest{})
		wait(2 * idle)
		_, err := d.Create(t.Context(), sandbox.CreateRequest{})
		wantError(t, "Create", err, sandbox.Limit, "--max-sandboxes", "--max-disk")
		_, err = d.Execute(t.Context(), string(first), sandbox.ExecuteRequest{Code: "print x"})
		wantError(t, "Execute", err, sandbox.Limit, "--max-sandboxes", "--max-disk", "Nothing of it is lost")
	})
}

// TestDiscardsForSuspend checks that the checkpoint of a running sandbox is discarded if another sandbox needs
// its space to be suspended.
func TestDiscardsForSuspend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := bubble(t, saving, func(c *manager.Config) { c.MaxDisk = 20_000 })
		d.eng.StateBytes = 12345
		runs := d.create(t, sandbox.CreateRequest{}).ID
		wait(2 * saveEvery)
		other := d.create(t, sandbox.CreateRequest{}).ID
		for range 6 {
			d.writes(t, runs, "a", "x") // so this sandbox is never idle long enough to be suspended
			wait(saveEvery)
		}
		d.wantState(t, "idle", other, sandbox.Suspended)
		d.wantState(t, "used", runs, sandbox.Running)
		if _, n := d.eng.Checkpoints(); n == 0 {
			t.Error("no saved state was discarded")
		}
		if got, _ := d.Get(t.Context(), string(runs)); !got.SavedTime.IsZero() {
			t.Errorf("saved_time = %v, want none: it is kept no more", got.SavedTime)
		}
	})
}
