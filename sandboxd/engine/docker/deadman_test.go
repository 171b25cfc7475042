package docker_test

import (
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/docker"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/enginetest/guesttest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/bundle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestDeadManSwitch checks that a sandbox ends by itself if no daemon ends it.
func TestDeadManSwitch(t *testing.T) {
	t.Parallel()
	for _, runtime := range []string{"runc", "runsc"} {
		t.Run(runtime, func(t *testing.T) {
			t.Parallel()
			s := spec(testImage(t))
			s.Limits.MemoryBytes, s.Limits.Processes = 1024*sandbox.MiB, 200
			home := "test-" + string(sandbox.NewID())
			guesttest.DeadManSwitch(t, func(t *testing.T, withGuest bool) engine.Engine {
				config := docker.Config{Home: home, Runtime: runtime}
				if withGuest {
					config.Bundle = bundle.Bundle{}
				}
				return open(t, config)
			}, s)
		})
	}
}
