package docker

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
)

type version [3]int

// Each list has the first fixed version of each release line, oldest line first. [checkVersion] gives older versions the
// status [engine.Weak]. The comment on a list names the fixed vulnerabilities, or another reason for the minimum.
var (
	// The oldest version that Dormouse is tested with.
	dockerMinimums = []version{{20, 10, 24}}
	// CVE-2023-25173: supplementary groups are set up incorrectly.
	containerdMinimums = []version{{1, 5, 18}, {1, 6, 18}}
	// CVE-2024-21626, a leaked file descriptor of the host (fixed in 1.1.12), and CVE-2025-31133, -52565 and -52881,
	// races around masked paths.
	runcMinimums = []version{{1, 2, 8}, {1, 3, 3}}
)

var versionPattern = regexp.MustCompile(`^v?(\d+)\.(\d+)(?:\.(\d+))?`)

// parseVersion reads the beginning of a version such as "1.1.5+ds1-1+deb12u1".
func parseVersion(s string) (version, bool) {
	m := versionPattern.FindStringSubmatch(s)
	if m == nil {
		return version{}, false
	}
	var v version
	for i := range v {
		v[i], _ = strconv.Atoi(m[i+1]) // an absent part of the version counts as 0
	}
	return v, true
}

func (v version) less(than version) bool {
	for i := range v {
		if v[i] != than[i] {
			return v[i] < than[i]
		}
	}
	return false
}

func (v version) String() string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }

// checkVersion compares a component's version, as the engine reports it, with the minimum of its release line, or with
// the first minimum if its release line has none. A version that can't be parsed, such as a commit hash, is OK. A
// distribution may have patched an old version, so the remedy for a distribution's version is to check that, or to
// update.
func checkVersion(name, reported string, minimums []version) engine.Check {
	v, isVersion := parseVersion(reported)
	if !isVersion {
		return ok(name, "not said")
	}
	minimum := minimums[0]
	for _, f := range minimums {
		if f[0] == v[0] && f[1] == v[1] {
			minimum = f
		}
	}
	switch {
	case !v.less(minimum):
		return ok(name, "%s", reported)
	case strings.ContainsAny(reported, "+~"): // the version of a distribution, such as 1.1.5+ds1
		return weak(name, reported+", older than "+minimum.String(), "check that your distribution has patched it, or update")
	}
	return weak(name, reported+", older than "+minimum.String(), "update: this version has known container escapes")
}
