package sandbox_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

const (
	day  = 24 * time.Hour
	week = 7 * day
)

func TestParseDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"90m":       90 * time.Minute,
		"1h30m":     90 * time.Minute,
		"36h":       36 * time.Hour,
		"14d":       14 * day,
		"1d12h":     36 * time.Hour,
		"1w":        week,
		"1w2d3h4m":  week + 2*day + 3*time.Hour + 4*time.Minute,
		"1.5d":      36 * time.Hour,
		" 1d 12h ":  36 * time.Hour,
		"3600":      time.Hour,
		"0.5":       500 * time.Millisecond,
		"0":         0,
		"500ms":     500 * time.Millisecond,
		"-1d12h":    -36 * time.Hour,
		"11574d":    11574 * day,
		"1000000ms": 1000 * time.Second,
	} {
		if got, err := sandbox.ParseDuration(in); err != nil || time.Duration(got) != want {
			t.Errorf("ParseDuration(%q) = %v, %v, want %v", in, got, err, want)
		}
	}
}

func TestParseDurationRefuses(t *testing.T) {
	for _, in := range []string{
		"", " ", "-", "d", "w", "tomorrow", "2 days", "1h1d", "1d1w", "1d2d", "1h2d", "1d-12h", "--1d", "1d+1h", "0x1d", "1e9d",
		"NaN", "Inf", "1e10", "11575d", "1654w", "300000h", "11574d24h", "9999999999999999999h", strings.Repeat("9", 400) + "d",
	} {
		got, err := sandbox.ParseDuration(in)
		if sandbox.KindOf(err) != sandbox.Invalid {
			t.Errorf("ParseDuration(%q) = %v, %v, want invalid", in, got, err)
		}
	}
	if _, err := sandbox.ParseDuration("tomorrow"); err == nil || !strings.Contains(err.Error(), `"1d12h"`) {
		t.Errorf("the error gives no example: %v", err)
	}
}

// FuzzParseDuration checks that every parsed duration is in range, and that its text and its JSON can be parsed and
// give the same duration.
func FuzzParseDuration(f *testing.F) {
	for _, seed := range []string{"90m", "1d12h", "1w", "1w2d3h4m5s", "1.5d", "3600", "-1d", "1h2d", "NaN", "0x1p-2", "..d", "1_0", "99999999999999999999w"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := sandbox.ParseDuration(s)
		if err != nil {
			if sandbox.KindOf(err) != sandbox.Invalid {
				t.Fatalf("ParseDuration(%q): %v is not invalid", s, err)
			}
			return
		}
		if d > sandbox.Duration(1e9*time.Second) || d < -sandbox.Duration(1e9*time.Second) {
			t.Fatalf("ParseDuration(%q) = %v", s, d)
		}
		if again, err := sandbox.ParseDuration(d.String()); err != nil || again != d {
			t.Fatalf("%q is %v, and that is %v, %v", s, d, again, err)
		}
		var back sandbox.Duration
		b, err := json.Marshal(d)
		if err == nil {
			err = json.Unmarshal(b, &back)
		}
		if err != nil || back != d {
			t.Fatalf("%q is %s as JSON, and that is %v, %v", s, b, back, err)
		}
	})
}
