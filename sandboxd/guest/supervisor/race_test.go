//go:build linux && race

package supervisor_test

// If the tests run with -race, the guest is also built with the race detector.
var buildFlags, buildEnv = []string{"-race"}, "CGO_ENABLED=1"

// manyBytes is smaller than without -race, because the guest is slow.
const manyBytes = 128 << 20
