// Command runsc is gVisor's, as its Go module has it, but for some changes to it (patch/) and three things that a sandbox's start and resume gain by:
//
//   - The seccomp filter around it is compiled when runsc is built (filters/), as in gVisor's releases. Bazel does that for them,
//     and the Go module is made without; there every sandbox compiles it anew, which takes 60 to 90 ms of a CPU.
//   - One can be started ahead: as `runsc stand-by` it waits for its arguments.
//   - The garbage collector lets a resumed sandbox decode its state: what it decodes is all still needed (40 of 350 ms).
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

// compiled are the filters that were compiled ahead, if that was done.
var compiled []precompiledseccomp.Program

// programs is where gVisor looks for them, by name.
//
//go:linkname programs gvisor.dev/gvisor/runsc/boot/filter.precompiledPrograms
var programs map[string]precompiledseccomp.Program

func main() {
	if os.Args[len(os.Args)-1] == "stand-by" && !stoodBy() {
		return
	}
	if slices.Contains(os.Args, "boot") { // the command that is the sandbox
		filter.ListPrecompiled() // makes the map
		for _, p := range compiled {
			programs[p.Name] = p
		}
		go collectLater()
	}
	maincli.Main()
}

// stoodBy waits for the arguments, as JSON, on descriptor 3, and says when it has them. It reports whether there are any: else
// nobody needs us any more.
func stoodBy() bool {
	from := os.NewFile(3, "arguments")
	defer from.Close()
	var args []string
	_, _ = os.Stdout.WriteString("+") // who can't say so is another runsc
	err := json.NewDecoder(from).Decode(&args)
	if err != nil {
		return false
	}
	_, _ = os.Stdout.WriteString("+") // who doesn't hear it has another runsc do it
	os.Args = append(os.Args[:1], args...)
	return true
}

// waiting is more than a sandbox allocates until it is told what to run or restore (4.5 MB), which can take as long as a spare lives.
const waiting = 8 << 20

// collectLater leaves the collector idle until a second or two after a sandbox was told what to do.
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
