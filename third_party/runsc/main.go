// Command runsc is gVisor's runsc, built from gVisor's Go module with some patches (patch/) and three additions that make
// starting and resuming a sandbox faster:
//
//   - The seccomp filter of a sandbox is compiled when runsc is built (filters/), as in gVisor's releases. Bazel does that
//     for the releases. The Go module is made without it, so that every sandbox compiles the filter anew, which takes
//     60 to 90 ms of CPU time.
//   - A runsc process can be started before it is needed: `runsc stand-by` waits for its arguments.
//   - The garbage collector rarely runs while a resumed sandbox decodes its state, because all decoded objects are still
//     in use. This saves 40 of 350 ms.
package main

import (
	"encoding/json"
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

// compiled are the precompiled filters. The generated file compiled.go sets it; without that file it is empty.
var compiled []precompiledseccomp.Program

// programs is gVisor's map of precompiled filters, by name.
//
//go:linkname programs gvisor.dev/gvisor/runsc/boot/filter.precompiledPrograms
var programs map[string]precompiledseccomp.Program

func main() {
	if os.Args[len(os.Args)-1] == "stand-by" && !stoodBy() {
		return
	}
	if slices.Contains(os.Args, "boot") { // "runsc boot" is the process of the sandbox itself
		filter.ListPrecompiled() // creates the map
		for _, p := range compiled {
			programs[p.Name] = p
		}
		go collectLater()
	}
	maincli.Main()
}

// stoodBy waits for the arguments, as JSON, on file descriptor 3 and stores them in os.Args. It writes "+" to stdout twice:
// when it begins to wait, and when it has the arguments. It returns false if the descriptor is closed without arguments,
// which means that the process is no longer needed.
func stoodBy() bool {
	from := os.NewFile(3, "arguments")
	defer from.Close()
	var args []string
	_, _ = os.Stdout.WriteString("+") // a runsc without stand-by does not write this, so the engine does not use it as one
	err := json.NewDecoder(from).Decode(&args)
	if err != nil {
		return false
	}
	_, _ = os.Stdout.WriteString("+") // without this confirmation the engine starts another runsc with the same arguments
	os.Args = append(os.Args[:1], args...)
	return true
}

// waiting is a number of bytes above what a sandbox allocates before it receives the request to run or restore (4.5 MB). A
// pooled sandbox can wait for that request for its whole life.
const waiting = 8 << 20

// collectLater raises the GC percentage until one or two seconds after the sandbox received its request, so that the
// collector rarely runs during that time.
func collectLater() {
	usual := debug.SetGCPercent(400)
	allocated := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	for range time.Tick(time.Second) {
		metrics.Read(allocated)
		if allocated[0].Value.Uint64() > waiting {
			break
		}
	}
	time.Sleep(time.Second)
	debug.SetGCPercent(usual)
}
