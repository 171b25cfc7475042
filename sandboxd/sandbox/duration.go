package sandbox

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a [time.Duration] that is read from JSON and from flags with [ParseDuration]. Its String method and its
// JSON have the form of time.Duration.String.
type Duration time.Duration

// ParseDuration parses a duration in the syntax of [time.ParseDuration] ("90m", "1h30m"), which weeks and days may
// precede ("14d", "1w", "1d12h", "1.5d"), or a number of seconds ("3600"). It ignores spaces. Its errors are of kind
// invalid.
func ParseDuration(s string) (Duration, error) {
	t := strings.ReplaceAll(strings.TrimSpace(s), " ", "")
	if n, err := strconv.ParseFloat(t, 64); err == nil {
		if !(math.Abs(n) <= maxDuration.Seconds()) { // the negated comparison also rejects NaN
			return 0, outOfRange(s)
		}
		return Duration(n * float64(time.Second)), nil
	}
	rest, negative := strings.CutPrefix(t, "-")
	if rest == "" || strings.ContainsAny(rest, "+-") {
		return 0, invalidDuration(s)
	}
	var sum time.Duration
	for _, unit := range []struct {
		name  string
		hours time.Duration
	}{{"w", 7 * 24}, {"d", 24}, {"", 1}} {
		term := rest // by default, the rest after weeks and days is one term, which time.ParseDuration parses
		if unit.name != "" {
			n, after, found := strings.Cut(rest, unit.name)
			if !found {
				continue
			}
			if strings.Trim(n, "0123456789.") != "" {
				return 0, invalidDuration(s)
			}
			term, rest = n+"h", after
		} else if rest == "" {
			break
		}
		d, err := time.ParseDuration(term)
		if err != nil {
			return 0, invalidDuration(s)
		}
		if d > maxDuration/unit.hours {
			return 0, outOfRange(s)
		}
		sum += d * unit.hours
	}
	if sum > maxDuration {
		return 0, outOfRange(s)
	}
	if negative {
		sum = -sum
	}
	return Duration(sum), nil
}

// maxDuration limits a duration and each of its terms. It is far above every limit on a TTL or timeout, and the sum of
// three terms of this length does not overflow.
const maxDuration = 1e9 * time.Second

func invalidDuration(s string) error {
	return Errorf(Invalid, "%q is not a duration: write it like \"30m\", \"24h\", \"1d12h\" or \"1w\"", Quote(s))
}

func outOfRange(s string) error {
	return Errorf(Invalid, "%q is out of range for a duration", Quote(s))
}

// String formats the duration like time.Duration.String.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalJSON encodes the result of String as a JSON string.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }

// UnmarshalJSON accepts a string for [ParseDuration] or a number of seconds.
func (d *Duration) UnmarshalJSON(b []byte) error {
	s := string(b)
	if len(b) > 0 && b[0] == '"' {
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
	}
	v, err := ParseDuration(s)
	if err != nil {
		return err
	}
	*d = v
	return nil
}

// UnmarshalText calls [ParseDuration]. Flags use it.
func (d *Duration) UnmarshalText(b []byte) (err error) {
	*d, err = ParseDuration(string(b))
	return err
}
