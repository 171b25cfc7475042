//go:build linux && !race

package supervisor_test

// The guest is built statically, like the one in a release.
var buildFlags, buildEnv = []string{"-trimpath"}, "CGO_ENABLED=0"

const manyBytes = 1 << 30
