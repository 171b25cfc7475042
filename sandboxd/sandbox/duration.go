package sandbox

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a time.Duration that reads as "90m", "1d12h", "2w" or a number of
// seconds, and writes as Go does.
type Duration time.Duration

// ParseDuration accepts Go's durations ("90m", "1h30m"), the same after weeks and days
// ("14d", "1w", "1d12h", "1.5d"), and plain seconds ("3600"). Spaces may stand between.
func ParseDuration(s string) (Duration, error) {
	t := strings.ReplaceAll(strings.TrimSpace(s), " ", "")
	if n, err := strconv.ParseFloat(t, 64); err == nil {
		if !(math.Abs(n) <= longest.Seconds()) { // not a number is not, either
			return 0, outOfRange(s)
		}
		return Duration(n * float64(time.Second)), nil
	}
	rest, negative := strings.CutPrefix(t, "-")
	if rest == "" || strings.ContainsAny(rest, "+-") {
		return 0, noDuration(s)
	}
	var sum time.Duration
	for _, unit := range []struct {
		name  string
		hours time.Duration
	}{{"w", 7 * 24}, {"d", 24}, {"", 1}} {
		term := rest // the last unit takes all that is left, as Go reads it
		if unit.name != "" {
			n, after, found := strings.Cut(rest, unit.name)
			if !found {
				continue
			}
			if strings.Trim(n, "0123456789.") != "" {
				return 0, noDuration(s)
			}
			term, rest = n+"h", after
		} else if rest == "" {
			break
		}
		d, err := time.ParseDuration(term)
		if err != nil {
			return 0, noDuration(s)
		}
		if d > longest/unit.hours {
			return 0, outOfRange(s)
		}
		sum += d * unit.hours
	}
	if sum > longest {
		return 0, outOfRange(s)
	}
	if negative {
		sum = -sum
	}
	return Duration(sum), nil
}

// longest is far beyond every limit, and safe to add up.
const longest = 1e9 * time.Second

func noDuration(s string) error {
	return Errorf(Invalid, "%q is not a duration: write it like \"30m\", \"24h\", \"1d12h\" or \"1w\"", Quote(s))
}

func outOfRange(s string) error {
	return Errorf(Invalid, "%q is out of range for a duration", Quote(s))
}

// String writes the duration as Go does.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalJSON writes the duration as a string.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }

// UnmarshalJSON accepts a string or a number of seconds.
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

// UnmarshalText is ParseDuration, for flags.
func (d *Duration) UnmarshalText(b []byte) (err error) {
	*d, err = ParseDuration(string(b))
	return err
}
