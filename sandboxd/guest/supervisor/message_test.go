//go:build linux

package supervisor

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestMessages(t *testing.T) {
	tests := []struct {
		name, line string
		text       string
		ok         bool
	}{
		{name: "text", line: `{"type":"stdout","id":"a","text":"x\n\"\\\/\tä"}`, text: "x\n\"\\/\tä", ok: true},
		{name: "text with surrogates", line: `{"type":"stderr","id":"a","text":"\ud83d\ude00\u0041"}`, text: "😀A", ok: true},
		{name: "a lone surrogate is replaced", line: `{"type":"stdout","id":"a","text":"\ud83d"}`, text: "\uFFFD", ok: true},
		{name: "fields in another order", line: `{"text":"x","id":"a","type":"stdout"}`, text: "x", ok: true},
		{name: "of two texts, the last one counts", line: `{"type":"stdout","id":"a","text":"x","text":"y"}`, text: "y", ok: true},
		{name: "a control character", line: "{\"type\":\"stdout\",\"id\":\"a\",\"text\":\"\x01\"}"},
		{name: "invalid UTF-8 is replaced", line: "{\"type\":\"stdout\",\"id\":\"a\",\"text\":\"\xff\"}", text: "\uFFFD", ok: true},
		{name: "a string without an end", line: `{"type":"stdout","id":"a","text":"x`},
		{name: "an escape at the end", line: `{"type":"stdout","id":"a","text":"x\"}`},
		{name: "a second brace at the end", line: `{"type":"stdout","id":"a","text":"x"}}`},
		{name: "unknown type", line: `{"type":"exec","id":"a"}`},
		{name: "unknown status", line: `{"type":"done","id":"a","status":"fine"}`},
		{name: "display without data", line: `{"type":"display","id":"a"}`},
		{name: "display with data that is a number", line: `{"type":"display","id":"a","data":{"text/plain":1}}`},
		{name: "arrays that are nested too deeply", line: strings.Repeat("[", 100000)},
		{name: "null", line: "null"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m, err := parseMessage([]byte(test.line))
			if (err == nil) != test.ok || m.Text != test.text {
				t.Errorf("parseMessage() = %+v, %v, want the text %q, valid: %t", m, err, test.text, test.ok)
			}
		})
	}
}

// FuzzMessage checks that the fast parser (parseText) returns the same message as encoding/json for every line that it
// accepts, and that parsed texts are valid UTF-8.
func FuzzMessage(f *testing.F) {
	for _, line := range []string{
		`{"type":"stdout","id":"exec_a","text":"x\ny"}`, `{"type":"stderr","id":"","text":"\u00e4\\"}`, `{"type":"stdout","id":"a","text":"a","text":"b"}`,
		`{"type":"display","id":"a","data":{"image/png":"aGk="}}`, `{"type":"error","id":"a","name":"E","message":"m","traceback":"t"}`,
		`{"type":"done","id":"a","status":"ok"}`, `{"type":"ready","language":"python","version":"3","runner":"r"}`, `{"type":"sync"}`, "{\"type\":\"stdout\",\"id\":\"0\xff\",\"text\":\"\"}",
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := parseMessage(line)
		if err != nil {
			return
		}
		if !utf8.ValidString(m.Text) || !utf8.ValidString(m.Message) || !utf8.ValidString(m.Traceback) {
			t.Errorf("parseMessage() = %+v, want valid UTF-8", m)
		}
		quick, ok := parseText(line)
		if !ok {
			return
		}
		var slow message
		if err := json.Unmarshal(line, &slow); err != nil || slow.Text != quick.Text || slow.ID != quick.ID || slow.Type != quick.Type {
			t.Errorf("parseText() = %+v, want %+v as from encoding/json (%v)", quick, slow, err)
		}
	})
}

func TestLinesOfAnyLength(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("l", 3<<20)
	go func() {
		defer w.Close()
		w.WriteString("one\n\ntwo\n" + long + "\n" + strings.Repeat("t", maxMessage+1) + "\nthree\nunfinished")
	}()
	reader, bad := newPipeReader(r), 0
	var got []string
	for {
		lines, n, err := reader.next()
		bad += n
		for _, line := range lines {
			got = append(got, string(line))
		}
		if err != nil {
			break
		}
	}
	if want := []string{"one", "two", long, "three"}; bad != 1 || strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%d lines, %d too long, want %d and 1", len(got), bad, len(want))
	}
}

func TestDecoder(t *testing.T) {
	const whole = "aä€😀z"
	for i := range len(whole) {
		for k := i; k <= len(whole); k++ {
			var d decoder
			got := string(d.next([]byte(whole[:i]))) + string(d.next([]byte(whole[i:k]))) + string(d.next([]byte(whole[k:]))) + string(d.rest())
			if got != whole {
				t.Errorf("the text split at %d and %d became %q, want %q", i, k, got, whole)
			}
		}
	}
	var d decoder
	if got := string(d.next([]byte("a\xff\xe2\x82"))) + string(d.next([]byte("b\xc3"))) + string(d.rest()); got != "a\uFFFD\uFFFDb\uFFFD" {
		t.Errorf("invalid bytes became %q, want U+FFFD in their place", got)
	}
}
