//go:build linux && !race

package supervisor_test

// The guest as it is shipped: static.
var buildFlags, buildEnv = []string{"-trimpath"}, "CGO_ENABLED=0"

const manyBytes = 1 << 30
