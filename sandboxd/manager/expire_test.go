package manager_test

import (
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/manager"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/fake"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

func ttl(d time.Duration) sandbox.Duration { return sandbox.Duration(d) }

// TestSandboxExpiresAtEndOfTTL checks that a sandbox runs exactly until its expiry, and is then reported as expired.
func TestSandboxExpiresAtEndOfTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon(t)
		ctx := t.Context()
		long := d.create(t, sandbox.CreateRequest{TTL: ttl(14 * 24 * time.Hour)})
		sb := d.create(t, sandbox.CreateRequest{TTL: ttl(90 * time.Second), DisplayName: "x"})
		e := d.execute(t, sb.ID, "print x", 5)
		time.Sleep(time.Until(sb.ExpireTime) - time.Millisecond)
		synctest.Wait()
		if got, err := d.Get(ctx, "x"); err != nil || got.State != sandbox.Running {
			t.Errorf("Get() a millisecond before the expiry = %+v, %v, want it running", got, err)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		got, err := d.Get(ctx, "x")
		if want := "its TTL ended at " + sb.ExpireTime.Format(time.RFC3339); err != nil || got.State != sandbox.Terminated || got.Reason != want {
			t.Errorf("Get() = %+v, %v, want it terminated with the reason %q", got, err, want)
		}
		_, err = d.Execute(ctx, "x", sandbox.ExecuteRequest{Code: "print x"})
		wantError(t, "Execute", err, sandbox.Expired, "TTL ended", "Create a new one")
		wantError(t, "Delete", d.Delete(ctx, string(sb.ID)), sandbox.Expired)
		if got, err := d.GetExecution(ctx, string(e.ID), 0, sandbox.Window{}); err != nil || got.State != sandbox.ExecSucceeded || !got.OutputGone {
			t.Errorf("the execution of the expired sandbox = %+v, %v, want it succeeded, without output", got, err)
		}
		if ids := d.eng.IDs(); len(ids) != 1 || ids[0] != long.ID {
			t.Errorf("containers = %v, want only %s", ids, long.ID)
		}
		time.Sleep(25 * time.Hour)
		synctest.Wait()
		_, err = d.Get(ctx, string(sb.ID))
		wantError(t, "Get a day later", err, sandbox.NotFound, "there is no sandbox")
		_, err = d.GetExecution(ctx, string(e.ID), 0, sandbox.Window{})
		wantError(t, "GetExecution a day later", err, sandbox.NotFound)
	})
}

// TestUpdatedTTLCountsFromUpdate checks that a new TTL counts from the time of the update, whether the new TTL is
// longer or shorter.
func TestUpdatedTTLCountsFromUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon(t)
		sb := d.create(t, sandbox.CreateRequest{TTL: ttl(time.Minute)})
		for _, next := range []time.Duration{time.Hour, time.Minute} {
			time.Sleep(59 * time.Second)
			if _, err := d.Update(t.Context(), string(sb.ID), sandbox.UpdateRequest{TTL: new(ttl(next))}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute - time.Millisecond)
		synctest.Wait()
		if n := len(d.eng.IDs()); n != 1 {
			t.Errorf("%d containers before the expiry, want 1", n)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if n := len(d.eng.IDs()); n != 0 {
			t.Errorf("%d containers after the expiry, want none", n)
		}
	})
}

// TestGuestExpiryIsSetWhenGuestAnswers checks an update of the TTL while the guest does not answer. The manager
// sets the expiry in the guest later, so that the guest does not terminate the sandbox too early.
func TestGuestExpiryIsSetWhenGuestAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon(t)
		sb := d.create(t, sandbox.CreateRequest{TTL: ttl(time.Hour)})
		d.eng.SetDown(true)
		got, err := d.Update(t.Context(), string(sb.ID), sandbox.UpdateRequest{TTL: new(ttl(3 * time.Hour))})
		if err != nil || !got.ExpireTime.After(sb.ExpireTime) {
			t.Fatalf("Update() = %+v, %v", got, err)
		}
		time.Sleep(time.Minute)
		d.eng.SetDown(false)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if expiry := d.eng.Expiry(sb.ID); expiry.Unix() != got.ExpireTime.Unix() {
			t.Errorf("the guest's expiry is %v, want %v", expiry, got.ExpireTime)
		}
	})
}

// TestSandboxExpiresWithoutDaemon checks that the next daemon terminates a sandbox whose expiry passed while no
// daemon was running.
func TestSandboxExpiresWithoutDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eng, path := fake.NewEngine(), filepath.Join(t.TempDir(), "a.db")
		defer eng.Close()
		d := startDaemon(t, path, eng)
		sb := d.create(t, sandbox.CreateRequest{TTL: ttl(time.Minute)})
		d.stop(t)
		time.Sleep(time.Hour)
		next := startDaemon(t, path, eng)
		defer next.stop(t)
		_, err := next.Execute(t.Context(), string(sb.ID), sandbox.ExecuteRequest{Code: "print x"})
		wantError(t, "Execute", err, sandbox.Expired, "TTL ended")
		synctest.Wait()
		if ids := eng.IDs(); len(ids) != 0 {
			t.Errorf("containers = %v, want none", ids)
		}
	})
}

// TestExpiryFollowsClockJumps checks that setting the clock forward terminates the sandboxes that are then past
// their expiry, and that setting it back terminates none.
func TestExpiryFollowsClockJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var offset atomic.Int64
		d := newDaemon(t, func(c *manager.Config) {
			c.Now = func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
		})
		short := d.create(t, sandbox.CreateRequest{TTL: ttl(time.Hour)})
		d.create(t, sandbox.CreateRequest{TTL: ttl(3 * time.Hour)})
		offset.Store(int64(-5 * time.Minute))
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(d.eng.IDs()); n != 2 {
			t.Errorf("%d containers after the clock was set back, want 2", n)
		}
		offset.Store(int64(2 * time.Hour))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		got, err := d.Get(t.Context(), string(short.ID))
		if err != nil || got.State != sandbox.Terminated || len(d.eng.IDs()) != 1 {
			t.Errorf("after the clock was set forward: %+v, %v and %d containers, want it terminated and one container", got, err, len(d.eng.IDs()))
		}
	})
}
