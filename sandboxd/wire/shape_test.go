package wire_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
)

func TestJSONBeyondTheLimitsIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		text     string
		maximum  int
		wantText string // a part of the error; empty: CheckShape accepts the text
	}{
		"empty":                       {"", 0, ""},
		"as many values as allowed":   {`[1,2,3]`, 4, ""},
		"one value too many":          {`[1,2,3]`, 3, "more than 3 values"},
		"keys count":                  {`{"a":1,"b":2}`, 4, "more than 4 values"},
		"literals count":              {`[true,false,null]`, 3, "more than 3 values"},
		"objects count":               {`[{},{}]`, 2, "more than 2 values"},
		"brackets in a string":        {`["[[[[{{{{,,,,::::\"\\\"["]`, 2, ""},
		"a string that ends in \\":    {`["\\",1]`, 2, "more than 2 values"},
		"as deep as allowed":          {strings.Repeat("[", wire.MaxDepth) + strings.Repeat("]", wire.MaxDepth), 1000, ""},
		"one level too deep":          {strings.Repeat("[", wire.MaxDepth+1), 1000, "more than 64 levels"},
		"wide and shallow, default":   {"[" + strings.Repeat("{},", wire.MaxValues) + "{}]", wire.MaxValues, "more than 10,000 values"},
		"closing brackets, then deep": {strings.Repeat("]", 100) + strings.Repeat("[", 100), 1000, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := wire.CheckShape([]byte(c.text), c.maximum)
			if c.wantText == "" && err != nil || c.wantText != "" && (err == nil || !strings.Contains(err.Error(), c.wantText)) {
				t.Errorf("got %v, want %q", err, c.wantText)
			}
			if err != nil && sandbox.KindOf(err) != sandbox.Invalid {
				t.Errorf("got kind %v, want invalid", sandbox.KindOf(err))
			}
		})
	}
}

func TestReadJSONRefusesWideAndDeepBodiesBeforeDecoding(t *testing.T) {
	for name, c := range map[string]struct{ body, wantText string }{
		"wide": {`{"a":[` + strings.Repeat("{},", 1<<20) + `{}]}`, "more than 10,000 values"},
		"deep": {`{"a":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`, "more than 64 levels"},
	} {
		t.Run(name, func(t *testing.T) {
			counted := &counting{r: strings.NewReader(c.body)}
			r := httptest.NewRequest(http.MethodPost, "/", counted)
			var v struct{ A any }
			err := wire.ReadJSON(httptest.NewRecorder(), r, 8<<20, &v)
			if err == nil || !strings.Contains(err.Error(), c.wantText) || sandbox.KindOf(err) != sandbox.Invalid {
				t.Errorf("got %v, want invalid and %q", err, c.wantText)
			}
			if v.A != nil {
				t.Error("a part of the body was decoded")
			}
			if counted.n > 256<<10 {
				t.Errorf("%d bytes of the body were read, want a small part of its %d", counted.n, len(c.body))
			}
		})
	}
}

type counting struct {
	r io.Reader
	n int
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

// countOf returns the number of values and the depth of a JSON text according to encoding/json.
func countOf(text []byte) (values, depth int, ok bool) {
	if !json.Valid(text) {
		return 0, 0, false
	}
	d, open := json.NewDecoder(bytes.NewReader(text)), 0
	d.UseNumber()
	for {
		token, err := d.Token()
		if err == io.EOF {
			return values, depth, true
		}
		if err != nil {
			return 0, 0, false
		}
		switch token {
		case json.Delim(']'), json.Delim('}'):
			open--
			continue
		case json.Delim('['), json.Delim('{'):
			open++
			depth = max(depth, open)
		}
		values++
	}
}

// FuzzShape compares CheckShape with a count of encoding/json's tokens, and the result for a text that arrives byte by
// byte with the result for the whole text.
func FuzzShape(f *testing.F) {
	f.Add([]byte(strings.Repeat("{", wire.MaxDepth+1))) // not valid, and too deep
	for _, s := range []string{`{"a":[1,-2.5e3,"\"[",true,null,{}]}`, `"x"`, `[[[]]]`, ` 1 `, `"\\"`, `[1 ,2]`, `{"a":{"a":{"a":0}}}`, `[]]`, `"`, "\xff", `[tru]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		values, depth, ok := countOf(text)
		if ok {
			if err := wire.CheckShape(text, values); (err != nil) != (depth > wire.MaxDepth) {
				t.Errorf("%q: %v at the limit of its %d values and %d levels", text, err, values, depth)
			}
			if err := wire.CheckShape(text, values-1); err == nil {
				t.Errorf("%q has %d values and is accepted with a limit of one less", text, values)
			}
		}
		r := httptest.NewRequest(http.MethodPost, "/", iotest.OneByteReader(bytes.NewReader(text)))
		var piecewise, whole any
		got := wire.ReadJSON(httptest.NewRecorder(), r, 1<<20, &piecewise)
		want := wire.ReadJSON(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(text)), 1<<20, &whole)
		// If a text is not valid JSON and also too wide or too deep, either error is right.
		if (got == nil) != (want == nil) || ok && fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q: in pieces %v, at once %v", text, got, want)
		}
	})
}
