//go:build linux && race

package supervisor_test

// Under -race the guest looks for races as well.
var buildFlags, buildEnv = []string{"-race"}, "CGO_ENABLED=1"

const manyBytes = 128 << 20
