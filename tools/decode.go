package tools

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
)

// arguments are a call's arguments after decoding. Each value has the type of its parameter. A parameter that was
// absent, null or an empty optional string has no entry.
type arguments map[string]any

func (a arguments) text(name string) string { s, _ := a[name].(string); return s }

func (a arguments) number(name string, fallback float64) float64 {
	if v, ok := a[name].(float64); ok {
		return v
	}
	return fallback
}

// integer returns an argument as a whole number, or the value of fallback if the argument is absent. decode has
// checked that the number is whole.
func (a arguments) integer(name string, fallback int64) int64 {
	return int64(a.number(name, float64(fallback)))
}

func (a arguments) has(name string) bool { _, ok := a[name]; return ok }

func (a arguments) duration(name string) (d sandbox.Duration, ok bool) {
	d, ok = a[name].(sandbox.Duration)
	return d, ok
}

func (a arguments) files() []fileArgument { f, _ := a[filesName].([]fileArgument); return f }

// maxInteger limits whole numbers that have no limit of their own (offsets), so that they fit into an int64.
const maxInteger = sandbox.MaxOffset

// decimal formats a number without an exponent, as is usual in schemas and messages.
func decimal(n float64) string { return strconv.FormatFloat(n, 'f', -1, 64) }

// filesName is the name of the only parameter that is a list.
const filesName = "files"

// invalid returns an error of kind invalid. Its text is a sentence for the model about the arguments that it sent.
func invalid(format string, args ...any) error {
	return sandbox.Errorf(sandbox.Invalid, format, args...)
}

// decode checks and converts a call's arguments. It is lenient where clients are known to differ: it accepts numbers
// and lists as strings, and null for an absent argument. It is strict where leniency would hide a mistake: it rejects
// unknown names.
func (ps params) decode(tool string, raw any) (arguments, error) {
	given, err := decodeObject(raw)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if !slices.ContainsFunc(ps, func(p param) bool { return p.name == name }) {
			return nil, ps.unknown(tool, name)
		}
	}
	args := arguments{}
	for _, p := range ps {
		v := given[p.name]
		switch {
		case v == nil && p.required:
			return nil, invalid("%s needs %s, for example %q: %s", tool, p.name, p.name, p.example)
		case v == "" && p.required:
			return nil, invalid("%s is empty; give it like this: %q: %s", p.name, p.name, p.example)
		case v == nil || v == "": // some clients send null or "" for an absent argument
			continue
		}
		if args[p.name], err = p.decode(v); err != nil {
			return nil, err
		}
	}
	return args, nil
}

// decodeObject returns a call's arguments as a map. It accepts an object, a string that contains a JSON object, and nil.
func decodeObject(raw any) (map[string]any, error) {
	if long, ok := raw.(LongText); ok {
		s, err := readIntoMemory("the arguments", long, maxFilesText)
		if err != nil {
			return nil, err
		}
		raw = s
	}
	switch v := raw.(type) {
	case nil:
		return nil, nil
	case map[string]any:
		return v, nil
	case string:
		if err := wire.CheckShape([]byte(v), wire.MaxValues); err != nil {
			return nil, invalid("the arguments are a string: %w", err)
		}
		var m map[string]any
		if v == "" || json.Unmarshal([]byte(v), &m) == nil {
			return m, nil
		}
	}
	return nil, invalid("the arguments are %s: give an object with the parameters by name", describe(raw))
}

func (p param) decode(v any) (any, error) {
	switch p.kind {
	case fileList:
		return decodeFiles(v)
	case duration:
		return p.decodeDuration(v)
	case integer, number:
		return p.decodeNumber(v)
	}
	if long, ok := v.(LongText); ok {
		return readIntoMemory(p.name, long, sandbox.MaxCodeBytes)
	}
	if s, ok := v.(string); ok {
		return s, nil
	}
	return nil, p.typeError("a string", v)
}

func (p param) decodeDuration(v any) (any, error) {
	switch v := v.(type) {
	case string:
		d, err := sandbox.ParseDuration(v)
		if err != nil {
			return nil, invalid("%s: %s", p.name, err.Error())
		}
		return d, nil
	case float64:
		d, err := sandbox.ParseDuration(strconv.FormatFloat(v, 'g', -1, 64))
		if err != nil {
			return nil, invalid("%s: %s", p.name, err.Error())
		}
		return d, nil
	}
	return nil, p.typeError(`a duration like "24h"`, v)
}

func (p param) decodeNumber(v any) (any, error) {
	want := "a number"
	if p.kind == integer {
		want = "a whole number"
	}
	n, ok := v.(float64)
	if s, isText := v.(string); isText {
		var err error
		n, err = strconv.ParseFloat(strings.TrimSpace(s), 64)
		ok = err == nil
	}
	if !ok || math.IsNaN(n) || math.IsInf(n, 0) || p.kind == integer && n != math.Trunc(n) {
		return nil, p.typeError(want, v)
	}
	if p.min != nil && n < *p.min || p.max != nil && n > *p.max {
		return nil, invalid("%s is %s: use %s", p.name, decimal(n), p.bounds())
	}
	if p.kind == integer && math.Abs(n) > maxInteger {
		return nil, invalid("%s is %s: no file and no output is that long", p.name, decimal(n))
	}
	return n, nil
}

func (p param) bounds() string {
	switch {
	case p.max == nil:
		return fmt.Sprintf("%.10g or more", *p.min)
	case p.min == nil:
		return fmt.Sprintf("at most %.10g", *p.max)
	}
	return fmt.Sprintf("%.10g to %.10g", *p.min, *p.max)
}

func (p param) typeError(want string, v any) error {
	return invalid("%s must be %s, and is %s; an example: %s", p.name, want, describe(v), p.example)
}

// describe returns a short description of a JSON value, for an error message.
func describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return strconv.FormatBool(v)
	case float64:
		return "the number " + strconv.FormatFloat(v, 'g', -1, 64)
	case string:
		return fmt.Sprintf("the string %q", sandbox.Quote(v))
	case []any:
		return fmt.Sprintf("a list of %d values", len(v))
	case map[string]any:
		return "an object"
	case LongText:
		return fmt.Sprintf("a string of %d bytes", v.Size())
	}
	return "something else"
}

// unknown returns the error for an unknown parameter name. It suggests the parameter that the client probably meant.
func (ps params) unknown(tool, name string) error {
	var names []string
	for _, p := range ps {
		names = append(names, p.name)
	}
	hint := ""
	if near := nearest(name, names); near != "" {
		hint = fmt.Sprintf(": did you mean %q?", near)
	}
	return invalid("%s has no parameter %q%s It takes %s.", tool, sandbox.Quote(name), orFullStop(hint), strings.Join(names, ", "))
}

func orFullStop(s string) string {
	if s == "" {
		return "."
	}
	return s
}

// nearest returns the candidate that is most similar to name: one that contains name or is contained in it, otherwise
// one that is a few edits away, otherwise "".
func nearest(name string, candidates []string) string {
	name = strings.ToLower(name[:min(len(name), 64)])
	best, bestDistance := "", max(2, len(name)/3)+1
	for _, c := range candidates {
		d := editDistance(name, c)
		if len(name) > 1 && (strings.Contains(c, name) || strings.Contains(name, c)) {
			d = min(d, 1)
		}
		if d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// editDistance returns how many insertions, deletions and replacements of bytes turn a into b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
