//go:build !linux

package supervisor_test

import "testing"

func TestGuest(t *testing.T) {
	t.Skip("NOT TESTED: the guest runs on Linux only")
}
