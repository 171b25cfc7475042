package image

import (
	"regexp"
	"strings"
)

// Wheel is a package from PyPI, at one version.
type Wheel struct {
	Name    string
	Version string
	Hashes  []string // SHA-256, one for each architecture's wheel, or one for all
}

// Packages returns the names of the Debian packages in the image, as packages.txt has them.
func Packages() []string { return parsePackages(read("packages.txt")) }

// Wheels returns the packages from PyPI in the image, as requirements.txt has them.
func Wheels() []Wheel { return parseWheels(read("requirements.txt")) }

// parsePackages reads one package a line; # begins a comment.
func parsePackages(list string) []string {
	var names []string
	for line := range strings.Lines(list) {
		line, _, _ = strings.Cut(line, "#")
		names = append(names, strings.Fields(line)...)
	}
	return names
}

var pinned = regexp.MustCompile(`(?m)^([\w.-]+)==([\w.]+)((?: \\\n\s+--hash=sha256:[0-9a-f]{64})*)$`)

// parseWheels reads the pins that pin.py writes; a line that is none is not there.
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
