//go:build linux && race

package supervisor_test

// With -race, the guest is built with the race detector, too.
var buildFlags, buildEnv = []string{"-race"}, "CGO_ENABLED=1"

// manyBytes is smaller than without -race, because the guest is slow.
const manyBytes = 128 << 20
