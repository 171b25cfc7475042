// Command runsc is gVisor's runsc, built from gVisor's Go module with some patches (patch/) and two additions that make
// starting and resuming a sandbox faster:
//
//   - The seccomp filter of a sandbox is compiled when runsc is built (filters/). gVisor's releases do the same, with
//     Bazel. gVisor's Go module does not contain the compiled filter; a runsc built from the module alone would compile
//     it for each sandbox, which takes 60 to 90 ms of CPU time.
//   - The garbage collector rarely runs while a resumed sandbox decodes its state. It would find little to free, because
//     all decoded objects are still in use. This saves 40 of 350 ms.
package main

import (
	"os"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"time"
	_ "unsafe" // for go:linkname

	"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"
	"gvisor.dev/gvisor/runsc/boot/filter"
	"gvisor.dev/gvisor/runsc/cli/maincli"
)

// compiled holds the filters that were compiled when runsc was built. The generated file compiled.go sets it. It is
// empty in a build without that file.
var compiled []precompiledseccomp.Program

// programs is gVisor's map of precompiled filters, by name.
//
//go:linkname programs gvisor.dev/gvisor/runsc/boot/filter.precompiledPrograms
var programs map[string]precompiledseccomp.Program

func main() {
	if slices.Contains(os.Args, "boot") { // "runsc boot" is the process in which the code of the sandbox runs
		filter.ListPrecompiled() // creates the map programs
		for _, p := range compiled {
			programs[p.Name] = p
		}
		go collectLater()
	}
	maincli.Main()
}

// idleAllocation is the number of allocated bytes above which collectLater assumes that the sandbox has received the request
// to run or to restore a checkpoint. Before that request, a sandbox allocates 4.5 MB. A pooled sandbox may never
// receive a request.
const idleAllocation = 8 << 20

// collectLater raises the GC percentage until one or two seconds after the sandbox received its request, so that the
// collector rarely runs during that time.
func collectLater() {
	usual := debug.SetGCPercent(400)
	allocated := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	for range time.Tick(time.Second) {
		metrics.Read(allocated)
		if allocated[0].Value.Uint64() > idleAllocation {
			break
		}
	}
	time.Sleep(time.Second)
	debug.SetGCPercent(usual)
}
