package enginetest

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// Slow skips a test that is too slow for every run, unless DORMOUSE_TEST_SLOW is set. If the comma-separated list in
// DORMOUSE_TEST_REQUIRE contains "slow", as in CI, Slow fails the test instead of skipping it.
func Slow(t testing.TB) {
	t.Helper()
	if os.Getenv("DORMOUSE_TEST_SLOW") != "" {
		return
	}
	if slices.Contains(strings.Split(os.Getenv("DORMOUSE_TEST_REQUIRE"), ","), "slow") {
		t.Fatal("DORMOUSE_TEST_REQUIRE has slow, but DORMOUSE_TEST_SLOW is not set")
	}
	t.Skip("NOT TESTED: a slow test, which runs only with DORMOUSE_TEST_SLOW=1")
}
