package checkpoint

import (
	"os"
	"slices"
	"strings"
	"sync"
)

// cpuFeatures returns the sorted feature flags of the machine's CPUs. A program may check them when it starts, and then
// use a feature even after it was restored on another machine.
var cpuFeatures = sync.OnceValue(func() []string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		if name = strings.TrimSpace(name); name == "flags" || name == "Features" { // "flags" on x86, "Features" on Arm
			return slices.Sorted(strings.FieldsSeq(value))
		}
	}
	return nil
})
