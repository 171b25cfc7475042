package image

import (
	"regexp"
	"strings"
)

// Wheel is one version of a package from PyPI.
type Wheel struct {
	Name    string
	Version string
	Hashes  []string // SHA-256 sums in hex: one sum for each architecture's wheel, or one sum if all architectures share a wheel
}

// Packages returns the names of the Debian packages in the image, from packages.txt.
func Packages() []string { return parsePackages(read("packages.txt")) }

// Wheels returns the packages from PyPI in the image, from requirements.txt.
func Wheels() []Wheel { return parseWheels(read("requirements.txt")) }

// parsePackages parses a list with a package name on each line. In the list, # begins a comment.
func parsePackages(list string) []string {
	var names []string
	for line := range strings.Lines(list) {
		line, _, _ = strings.Cut(line, "#")
		names = append(names, strings.Fields(line)...)
	}
	return names
}

var pinned = regexp.MustCompile(`(?m)^([\w.-]+)==([\w.]+)((?: \\\n\s+--hash=sha256:[0-9a-f]{64})*)$`)

// parseWheels parses the pinned requirements that pin.py writes. It ignores lines that do not have this form.
func parseWheels(requirements string) []Wheel {
	var wheels []Wheel
	for _, match := range pinned.FindAllStringSubmatch(requirements, -1) {
		wheel := Wheel{Name: match[1], Version: match[2]}
		for _, field := range strings.Fields(match[3]) {
			if hash, ok := strings.CutPrefix(field, "--hash=sha256:"); ok {
				wheel.Hashes = append(wheel.Hashes, hash)
			}
		}
		wheels = append(wheels, wheel)
	}
	return wheels
}
