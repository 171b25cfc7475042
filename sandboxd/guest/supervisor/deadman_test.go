//go:build linux

package supervisor

import (
	"testing"
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
			t.Errorf("due %s after the expiry = %t, want %t", after, got, due)
		}
	}
}
