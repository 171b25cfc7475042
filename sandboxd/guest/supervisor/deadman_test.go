//go:build linux

package supervisor

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestDeadman(t *testing.T) {
	var d deadman
	expires := time.Unix(1_800_000_000, 0)
	d.set(expires)
	for after, due := range map[time.Duration]bool{
		-time.Hour: false, 0: false, expiryGrace: false, expiryGrace + time.Second: true, 24 * time.Hour: true,
	} {
		if got := d.due(expires.Add(after)); got != due {
			t.Errorf("due(%s after the expiry) = %t, want %t", after, got, due)
		}
	}
}

// TestRestoredGuestWaitsForItsExpiry checks that a guest that was restored from a snapshot with a past expiry waits for
// restoreGrace until the daemon sends a new expiry, and ends if the daemon sends none.
func TestRestoredGuestWaitsForItsExpiry(t *testing.T) {
	var d deadman
	var c expiryChecks
	now := time.Unix(1_800_000_000, 0)
	d.set(now.Add(time.Minute))
	if c.check(&d, now) {
		t.Fatal("check() = true before the expiry, want false")
	}
	now = now.Add(24 * time.Hour) // the time for which the sandbox was suspended
	for restored := now; ; now = now.Add(expiryCheck) {
		if !c.check(&d, now) {
			if now.Sub(restored) > restoreGrace+2*expiryCheck {
				t.Fatalf("check() = false %v after the restore without a new expiry, want true", now.Sub(restored))
			}
			continue
		}
		if now.Sub(restored) <= restoreGrace {
			t.Errorf("check() = true %v after the restore, want false for %v", now.Sub(restored), restoreGrace)
		}
		return
	}
}

// TestResumedGuestWaitsForALaterExpiry checks that a guest that is resumed after its expiry ends only at the second
// check, so that the daemon has time to send a later expiry.
func TestResumedGuestWaitsForALaterExpiry(t *testing.T) {
	for _, prolonged := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var d deadman
			d.set(time.Now().Add(-time.Hour))
			ended := make(chan struct{})
			go func() { d.watch(); close(ended) }()
			time.Sleep(expiryCheck / 2)
			if prolonged {
				d.set(time.Now().Add(time.Hour))
			}
			time.Sleep(expiryCheck)
			synctest.Wait()
			select {
			case <-ended:
				if prolonged {
					t.Error("the guest ended although the expiry was set to a later time")
				}
			default:
				if !prolonged {
					t.Error("the guest did not end an hour after the expiry")
				}
			}
			d.set(time.Now().Add(-time.Hour))
			<-ended
		})
	}
}
