// Testreport reads the output of go test -json from stdin and prints a summary for people: a line for each package, the
// whole output of failed tests, and at the end the slowest passed tests and each skipped test with its reason. Its exit
// status is 1 if a test or a build failed.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

type event struct {
	Action  string
	Package string
	Test    string
	Output  string
	Elapsed float64
	// ImportPath is the package in events about a build, in which Package is empty.
	ImportPath string
}

type key struct{ pkg, test string }

func main() {
	output := map[key][]string{}
	var passed, failed int
	var skips []string
	took := map[key]float64{} // the duration of each passed test in seconds
	broken := false

	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var e event
		if json.Unmarshal(in.Bytes(), &e) != nil {
			fmt.Println(in.Text()) // the line is not JSON: go test printed it outside of any test
			continue
		}
		k := key{e.Package, e.Test}
		switch e.Action {
		case "build-output":
			fmt.Print(e.Output)
		case "build-fail":
			broken = true
		case "output":
			output[k] = append(output[k], e.Output)
		case "pass":
			if e.Test != "" {
				passed++
				took[k] = e.Elapsed
				delete(output, k)
				continue
			}
			fmt.Printf("ok  \t%s\t%.3fs\n", e.Package, e.Elapsed)
		case "skip":
			if e.Test != "" {
				skips = append(skips, fmt.Sprintf("%s %s: %s", e.Package, e.Test, reason(output[k])))
			}
		case "fail":
			fmt.Print(strings.Join(output[k], ""))
			if e.Test != "" {
				failed++
				continue
			}
			broken = true
			fmt.Printf("FAIL\t%s\t%.3fs\n", e.Package, e.Elapsed)
		}
	}
	for _, k := range slowest(took, 15) {
		fmt.Printf("SLOW: %.1fs %s %s\n", took[k], k.pkg, k.test)
	}
	slices.Sort(skips)
	for _, s := range skips {
		fmt.Println("NOT RUN:", s)
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", passed, failed, len(skips))
	if broken || failed > 0 || in.Err() != nil {
		os.Exit(1)
	}
}

// reason returns the reason for a skip from the output of a skipped test.
func reason(lines []string) string {
	for _, l := range lines {
		if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "===") && !strings.HasPrefix(l, "---") {
			return l
		}
	}
	return "the test gives no reason"
}

// slowest returns the n tests that took longest. It leaves out tests with subtests, because their subtests are candidates
// themselves.
func slowest(took map[key]float64, n int) []key {
	keys := slices.SortedFunc(maps.Keys(took), func(a, b key) int { return cmp.Compare(took[b], took[a]) })
	parents := map[key]bool{}
	for k := range took {
		if i := strings.LastIndexByte(k.test, '/'); i >= 0 {
			parents[key{k.pkg, k.test[:i]}] = true
		}
	}
	keys = slices.DeleteFunc(keys, func(k key) bool { return parents[k] })
	return keys[:min(n, len(keys))]
}
