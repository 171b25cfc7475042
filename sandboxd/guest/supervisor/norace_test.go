//go:build linux && !race

package supervisor_test

// The guest is built statically, like the one in a release.
var buildFlags, buildEnv = []string{"-trimpath"}, "CGO_ENABLED=0"

// manyBytes is the size of an output that is too large to store in the memory that TestOutput allows.
const manyBytes = 512 << 20
