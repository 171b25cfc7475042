package render

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// cleanText makes text from programs and people safe to show. It removes terminal sequences. It writes visible escapes
// in place of invalid UTF-8, control characters, and characters that reorder or hide text. It keeps newlines and tabs,
// and turns CR LF into a newline.
func cleanText(s string) string {
	if plain(s) {
		return s
	}
	return clean(strings.ReplaceAll(s, "\r\n", "\n"), false)
}

// CleanTerminal makes printed text safe for a terminal. It keeps newlines, tabs, carriage returns and colours, and
// replaces every other control character by a visible escape. If s ends in the middle of a colour sequence, rest is the
// beginning of that sequence; the caller must prepend it to the next text.
func CleanTerminal(s string) (shown, rest string) {
	if plain(s) {
		return s, ""
	}
	if i := strings.LastIndexByte(s, 0x1b); i >= 0 && len(s)-i < maxColour && strings.Trim(s[i+1:], "[0123456789;:") == "" {
		s, rest = s[:i], s[i:]
	}
	return clean(s, true), rest
}

// clean replaces invalid UTF-8, control characters and hidden characters by visible escapes. It keeps newlines and
// tabs. If terminal is true, it also keeps carriage returns and colours; otherwise it removes complete terminal
// sequences.
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
		case r >= 0x80 && r < 0xa0 || isInvisible(r):
			b.WriteString(escapeRune(r))
		default:
			b.WriteString(s[:size])
		}
		s = s[size:]
	}
	return b.String()
}

// plain reports whether s contains only printable ASCII, newlines and tabs. Nearly all text does, and needs no cleaning.
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

// isInvisible reports whether r is a character that reorders text (bidi controls), breaks lines invisibly, has no width, or
// encodes invisible text (tags).
func isInvisible(r rune) bool {
	switch {
	case r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069, // embeddings, overrides, isolates
		r == 0x200e, r == 0x200f, r == 0x061c, // marks
		r == 0x2028, r == 0x2029, // separators
		r == 0x200b, r == 0x2060, r == 0xfeff, // zero width; the joiners stay, because some scripts and emoji need them
		r >= 0xe0000 && r <= 0xe007f: // tags
		return true
	}
	return false
}

// maxColour is the maximum length of a colour sequence in bytes.
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

// maxSequence is the maximum length of a terminal sequence in bytes. It limits how much text a hostile sequence can
// hide.
const maxSequence = 512

// terminalSequence returns the length of a complete terminal sequence at the start of s, or 0: a colour or cursor move
// (CSI), or a title or link (OSC and similar sequences). An incomplete sequence counts as 0, so clean shows its escape
// character.
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
				return 0 // a sequence must not hide more than one line
			}
		}
	}
	return 0
}

// collapseReturns keeps only the part of each line after its last carriage return, which is about what a terminal would
// show. Progress bars print a carriage return to write the same line again.
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
