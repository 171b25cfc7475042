package enginetest

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// Slow skips a test that takes too long for every day, unless DORMOUSE_TEST_SLOW is set. Where DORMOUSE_TEST_REQUIRE (a list with
// commas) has "slow", as in CI, to leave it out is a failure.
func Slow(t testing.TB) {
	t.Helper()
	if os.Getenv("DORMOUSE_TEST_SLOW") != "" {
		return
	}
	if slices.Contains(strings.Split(os.Getenv("DORMOUSE_TEST_REQUIRE"), ","), "slow") {
		t.Fatal("the slow tests are required, and DORMOUSE_TEST_SLOW is not set")
	}
	t.Skip("NOT TESTED: it is slow: only with DORMOUSE_TEST_SLOW=1")
}
