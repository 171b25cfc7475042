package tools

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// cleanText makes text from programs and people safe to show: valid UTF-8 without
// terminal sequences, with every other control character written out, and without
// characters that reorder or hide text. New lines and tabs stay.
func cleanText(s string) string {
	if plain(s) {
		return s
	}
	return clean(strings.ReplaceAll(s, "\r\n", "\n"), false)
}

// CleanTerminal makes printed text safe for a terminal: it keeps colours and carriage returns, and replaces every other control
// character by visible text. If s ends in the middle of a colour's sequence, rest is the beginning of that sequence: the caller must put
// it before the next text.
func CleanTerminal(s string) (shown, rest string) {
	if plain(s) {
		return s, ""
	}
	if i := strings.LastIndexByte(s, 0x1b); i >= 0 && len(s)-i < maxColour && strings.Trim(s[i+1:], "[0123456789;:") == "" {
		s, rest = s[:i], s[i:]
	}
	return clean(s, true), rest
}

// clean replaces control characters by visible text. If terminal is true it keeps carriage returns and colours; otherwise it removes
// complete terminal sequences.
func clean(s string, terminal bool) string {
	var b strings.Builder
	b.Grow(len(s))
	for len(s) > 0 {
		if n := colour(s); n > 0 && terminal {
			b.WriteString(s[:n])
			s = s[n:]
			continue
		} else if n := terminalSequence(s); n > 0 && !terminal {
			s = s[n:]
			continue
		}
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case r == '\n' || r == '\t' || r == '\r' && terminal:
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r >= 0x80 && r < 0xa0 || hidden(r):
			b.WriteString(escapeRune(r))
		default:
			b.WriteString(s[:size])
		}
		s = s[size:]
	}
	return b.String()
}

// plain reports whether s is printable ASCII, which nearly all text is.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 0x20 || c > 0x7e) && c != '\n' && c != '\t' {
			return false
		}
	}
	return true
}

func escapeRune(r rune) string {
	if r > 0xffff {
		return fmt.Sprintf(`\U%08x`, r)
	}
	return fmt.Sprintf(`\u%04x`, r)
}

// hidden reports characters that reorder text (bidi controls), break lines unseen,
// or carry text that people do not see (tags).
func hidden(r rune) bool {
	switch {
	case r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069, // embeddings, overrides, isolates
		r == 0x200e, r == 0x200f, r == 0x061c, // marks
		r == 0x2028, r == 0x2029, // separators
		r == 0x200b, r == 0x2060, r == 0xfeff, // zero width, but not the joiners that scripts and emoji need
		r >= 0xe0000 && r <= 0xe007f: // tags
		return true
	}
	return false
}

// maxColour is the maximum length of a colour's sequence.
const maxColour = 64

// colour returns the length of a complete colour sequence (SGR) at the start of s, or 0.
func colour(s string) int {
	if !strings.HasPrefix(s, "\x1b[") {
		return 0
	}
	for i := 2; i < min(len(s), maxColour); i++ {
		switch c := s[i]; {
		case c == 'm':
			return i + 1
		case c != ';' && c != ':' && (c < '0' || c > '9'):
			return 0
		}
	}
	return 0
}

// maxSequence bounds how far a terminal sequence can swallow text.
const maxSequence = 512

// terminalSequence returns the length of a complete terminal sequence at the start
// of s: colours and cursor moves (CSI), titles and links (OSC and its kin). An incomplete
// one is 0, and its escape character is shown.
func terminalSequence(s string) int {
	if len(s) < 2 || s[0] != 0x1b {
		return 0
	}
	limit := min(len(s), maxSequence)
	switch s[1] {
	case '[':
		for i := 2; i < limit; i++ {
			if c := s[i]; c >= 0x40 && c <= 0x7e {
				return i + 1
			} else if c < 0x20 || c > 0x3f {
				return 0
			}
		}
	case ']', 'P', 'X', '^', '_':
		for i := 2; i < limit; i++ {
			switch {
			case s[i] == 0x07:
				return i + 1
			case s[i] == 0x1b && i+1 < limit && s[i+1] == '\\':
				return i + 2
			case s[i] == '\n':
				return 0 // never swallow a line
			}
		}
	}
	return 0
}

// collapseReturns keeps of each line what a terminal would show last: progress bars
// print a carriage return and write the line again.
func collapseReturns(s string) string {
	if !strings.Contains(s, "\r") {
		return s
	}
	s = strings.ReplaceAll(s, "\r\n", "\n")
	var b strings.Builder
	for line := range strings.Lines(s) {
		body, end := strings.TrimSuffix(line, "\n"), ""
		if len(body) < len(line) {
			end = "\n"
		}
		body = strings.TrimRight(body, "\r")
		if i := strings.LastIndexByte(body, '\r'); i >= 0 {
			body = body[i+1:]
		}
		b.WriteString(body + end)
	}
	return b.String()
}

// oneLine is clean text for use inside a sentence of ours: no line of its own, not
// longer than most bytes.
func oneLine(s string, most int) string {
	s = strings.NewReplacer("\n", `\n`, "\t", " ").Replace(cleanText(collapseReturns(s)))
	return short(s, most)
}

// short returns s, or its beginning and an ellipsis if it has more than most bytes.
func short(s string, most int) string {
	if len(s) > most {
		return cutHead(s, most) + "…"
	}
	return s
}

// quotePath quotes a file's path, whatever a program has called it.
func quotePath(p string) string { return strconv.Quote(p) }
