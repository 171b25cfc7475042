package gvisor

import (
	"os"
	"slices"
	"strings"
	"sync"
)

// cpuFeatures are what the machine's CPUs can, sorted: what a program found out when it
// started, and goes on using after it was restored.
var cpuFeatures = sync.OnceValue(func() []string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		if name = strings.TrimSpace(name); name == "flags" || name == "Features" { // x86, and Arm
			return slices.Sorted(strings.FieldsSeq(value))
		}
	}
	return nil
})
