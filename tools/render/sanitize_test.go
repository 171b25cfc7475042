package render_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools/render"
	"github.com/dormouse-sandbox/dormouse/tools/toolstest"
)

// shownAs returns the text of the answer about an execution that printed this text.
func shownAs(t testing.TB, printed string) string {
	t.Helper()
	return toolstest.Text(t, answer(t.Context(), sandbox.Execution{Events: []sandbox.Event{out(printed)}}, render.View{NewSandbox: true}))
}

// TestSanitize checks that printed text cannot move a terminal's cursor, and cannot hide or reorder text.
func TestSanitize(t *testing.T) {
	for printed, want := range map[string]string{
		"tab\there":                  "tab\there",
		"\x1b[1;31mred\x1b[0m":       "red",
		"\x1b[2J\x1b[Hcleared":       "cleared",
		"\x1b]0;title\x07text":       "text",
		"\x1b]8;;http://x\x1b\\link": "link",
		"\x1bPdevice\x1b\\control":   "control",
		"\x1b]0;never ends":          `\x1b]0;never ends`,
		"\x1b[31":                    `\x1b[31`,
		"\x1bc":                      `\x1bc`,
		"a\x00b\x07c\x7f":            `a\x00b\x07c\x7f`,
		"\u009b31m":                  `\u009b31m`,
		"\u202Eabc\u2069":            `\u202eabc\u2069`,
		"in\u200bvisible\ufeff":      `in\u200bvisible\ufeff`,
		"\U000E0041tag":              `\U000e0041tag`,
		"bad \xc3\x28 \xff":          `bad \xc3( \xff`,
		"é 漢字 👩‍💻":                   "é 漢字 👩‍💻",
		"50%\r100%":                  "100%",
		"50%\r100%\r":                "100%",
		"dos\r\nlines":               "dos\nlines",
		"kept\n10%\r20%\nkept":       "kept\n20%\nkept",
	} {
		if got := shownAs(t, printed); !strings.Contains(got, "```\n"+want+"\n```") {
			t.Errorf("%q is shown as %q, want %q in its block", printed, got, want)
		}
	}
}

// FuzzSanitize checks that for all printed text the answer is short and valid UTF-8, contains no control characters,
// and closes its fences.
func FuzzSanitize(f *testing.F) {
	f.Add(hostile)
	f.Add("```\n```\n````")
	f.Add("\x1b]0;\x1b[\r\r\n\xff")
	f.Add(strings.Repeat("`", 20) + strings.Repeat("é\x00", 90))
	f.Add("0" + strings.Repeat("\x86", 4092) + "000") // a note about text that is not shown precedes the block
	f.Add(strings.Repeat("\x86", 2438))               // there is only such a note
	f.Fuzz(func(t *testing.T, s string) {
		got := shownAs(t, s)
		if !utf8.ValidString(got) {
			t.Error("the answer is not valid UTF-8")
		}
		for _, r := range got {
			if r != '\n' && r != '\t' && unicode.IsControl(r) || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
				t.Errorf("the answer has %U", r)
			}
		}
		if len(got) > 16_000+4*strings.Count(s, "`") {
			t.Errorf("the answer has %d bytes", len(got))
		}
		_, blocks, printed := strings.Cut(got, "\nstdout:\n")
		if !printed {
			if !strings.Contains(got, "No output.") && !strings.Contains(got, " bytes not shown: ") {
				t.Errorf("the answer does not tell why it has no block:\n%s", got)
			}
			return
		}
		lines := strings.Split(blocks, "\n")
		fence, open := lines[0], false
		for _, line := range lines {
			if line == fence {
				open = !open
			}
		}
		if open || strings.Trim(fence, "`") != "" {
			t.Errorf("the blocks do not close:\n%s", got)
		}
	})
}
