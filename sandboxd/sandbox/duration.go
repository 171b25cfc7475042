package sandbox

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// Duration is a time.Duration that reads and writes as "24h", "14d" or a number of
// seconds.
type Duration time.Duration

// ParseDuration accepts Go's durations ("90m", "1h30m"), days ("14d") and plain
// seconds ("3600").
func ParseDuration(s string) (Duration, error) {
	t := strings.TrimSpace(s)
	if n, err := strconv.ParseFloat(t, 64); err == nil {
		return seconds(n, s)
	}
	if days, ok := strings.CutSuffix(t, "d"); ok {
		if n, err := strconv.ParseFloat(days, 64); err == nil {
			return seconds(n*24*60*60, s)
		}
	}
	d, err := time.ParseDuration(t)
	if err != nil {
		return 0, Errorf(Invalid, "%q is not a duration: write it like \"30m\", \"24h\" or \"14d\"", Quote(s))
	}
	return Duration(d), nil
}

func seconds(n float64, s string) (Duration, error) {
	const most = 1e9 // seconds; far beyond every limit, and safe to convert
	if n != n || n > most || n < -most {
		return 0, Errorf(Invalid, "%q is out of range for a duration", Quote(s))
	}
	return Duration(n * float64(time.Second)), nil
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
