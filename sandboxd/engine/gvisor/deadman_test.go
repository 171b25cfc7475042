package gvisor_test

import (
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/enginetest/guesttest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/bundle"
)

// TestDeadManSwitch checks that a sandbox ends by itself if no daemon ends it.
func TestDeadManSwitch(t *testing.T) {
	t.Parallel() // it waits most of the time
	image, dir := anyImage(t), tempDir(t)
	guesttest.DeadManSwitch(t, func(t *testing.T, withGuest bool) engine.Engine {
		if withGuest {
			return open(t, dir, bundle.Bundle{})
		}
		return open(t, dir, nil)
	}, spec(image))
}
