//go:build linux

package supervisor

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestNumbersInQueries checks the values of number, and that its errors name the reason.
func TestNumbersInQueries(t *testing.T) {
	tests := []struct {
		query string
		want  int64
		err   string // a part of the message; empty if the number is valid
	}{
		{query: "", want: 0},
		{query: "offset=", want: 0},
		{query: "offset=7", want: 7},
		{query: "offset=4503599627370496", want: sandbox.MaxOffset},
		{query: "offset=4503599627370497", err: "offset 4503599627370497 is too large: use at most 4503599627370496"},
		{query: "offset=99999999999999999999", err: "offset 99999999999999999999 is too large"},
		{query: "offset=-1", err: `offset "-1" is not a whole number of at least 0`},
		{query: "offset=-99999999999999999999", err: "is not a whole number"},
		{query: "offset=1.5", err: "is not a whole number"},
		{query: "offset=x", err: "is not a whole number"},
	}
	for _, test := range tests {
		t.Run(test.query, func(t *testing.T) {
			got, err := number(httptest.NewRequest("GET", "/?"+test.query, nil), "offset")
			if got != test.want || (err == nil) != (test.err == "") {
				t.Fatalf("number() = %d, %v, want %d and the error %q", got, err, test.want, test.err)
			}
			if err != nil && (!strings.Contains(err.Error(), test.err) || sandbox.KindOf(err) != sandbox.Invalid) {
				t.Errorf("number() = %q (%s), want %q (%s)", err, sandbox.KindOf(err), test.err, sandbox.Invalid)
			}
		})
	}
}
