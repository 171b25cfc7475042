// Command runsc is gVisor's, as its Go module has it, but for two things that a sandbox's start and resume gain by:
//
//   - The seccomp filter around it is compiled when runsc is built (filters/), as in gVisor's releases. Bazel does that for them,
//     and the Go module is made without; there every sandbox compiles it anew, which takes 60 to 90 ms of a CPU.
//   - The garbage collector lets the first second alone, in which a resumed sandbox decodes its state: what it decodes is
//     all still needed (40 of 350 ms).
package main

import (
	"os"
	"runtime/debug"
	"slices"
	"time"
	_ "unsafe" // for go:linkname

	"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"
	"gvisor.dev/gvisor/runsc/boot/filter"
	"gvisor.dev/gvisor/runsc/cli/maincli"
)

// compiled are the filters that were compiled ahead, if that was done.
var compiled []precompiledseccomp.Program

// programs is where gVisor looks for them, by name.
//
//go:linkname programs gvisor.dev/gvisor/runsc/boot/filter.precompiledPrograms
var programs map[string]precompiledseccomp.Program

func main() {
	if slices.Contains(os.Args, "boot") { // the command that is the sandbox
		filter.ListPrecompiled() // makes the map
		for _, p := range compiled {
			programs[p.Name] = p
		}
		usual := debug.SetGCPercent(400)
		time.AfterFunc(time.Second, func() { debug.SetGCPercent(usual) })
	}
	maincli.Main()
}
