package render

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// writer builds the text of an answer. Lines are Dormouse's own text; blocks contain text from programs and files
// between fences.
type writer struct {
	strings.Builder
	fence string
}

func (w *writer) line(format string, args ...any) {
	fmt.Fprintf(w, format, args...)
	w.WriteByte('\n')
}

func (w *writer) block(label, text string) {
	w.line("%s:\n%s\n%s\n%s", label, w.fence, strings.TrimSuffix(text, "\n"), w.fence)
}

// fence returns a fence that is longer than any run of backticks in the pieces. Otherwise text from a program could
// close its block and continue as if it were Dormouse's own text.
func fence(pieces []piece) string {
	longest := 2
	for _, p := range pieces {
		run := 0
		for i := range len(p.text) {
			if p.text[i] != '`' {
				run = 0
				continue
			}
			run++
			longest = max(longest, run)
		}
	}
	return strings.Repeat("`", longest+1)
}

// cutHead returns at most n bytes of the beginning of s, without splitting a character.
func cutHead(s string, n int) string {
	if n >= len(s) {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// cutTail returns at most n bytes of the end of s, without splitting a character.
func cutTail(s string, n int) string {
	at := len(s) - n
	if at <= 0 {
		return s
	}
	for at < len(s) && !utf8.RuneStart(s[at]) {
		at++
	}
	return s[at:]
}

// maxBackticks is the longest run of backticks that is shown unchanged. It limits the length of fences, which must be
// longer than any run.
const maxBackticks = 12

// breakBackticks breaks up long runs of backticks: after each maxBackticks backticks of a run, it replaces the next one
// by an escape.
func breakBackticks(s string) string {
	run := strings.Repeat("`", maxBackticks)
	if !strings.Contains(s, run+"`") {
		return s
	}
	return strings.ReplaceAll(s, run+"`", run+`\x60`)
}

// cost returns an upper bound for the number of bytes that pieces need in an answer's text, with their labels and
// fences.
func cost(pieces []piece) (n int) {
	for _, p := range pieces {
		if n += len(p.note) + 1; p.note == "" {
			n += len(p.label) + len(p.text) + len(":\n\n\n") + 2*(maxBackticks+1)
		}
	}
	return n
}

// groupDigits formats a number with a comma between groups of three digits.
func groupDigits(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Bytes formats a number of bytes, with its unit.
func Bytes(n int64) string {
	if n == 1 {
		return "1 byte"
	}
	return groupDigits(n) + " bytes"
}

// oneLine returns s as clean text for use in a sentence: without line breaks, and cut to maximum bytes as by Truncate.
func oneLine(s string, maximum int) string {
	s = strings.NewReplacer("\n", `\n`, "\t", " ").Replace(cleanText(collapseReturns(s)))
	return Truncate(s, maximum)
}

// Truncate returns s unchanged if s has at most maximum bytes. Otherwise it cuts s to at most maximum bytes and adds an
// ellipsis.
func Truncate(s string, maximum int) string {
	if len(s) > maximum {
		return cutHead(s, maximum) + "…"
	}
	return s
}

// QuotePath quotes a file's path. A program can choose any path, so it may contain control characters.
func QuotePath[P ~string](p P) string { return strconv.Quote(string(p)) }

// Sentence returns s as clean text that ends with a full stop, and then the sentences in next, if any.
func Sentence(s, next string) string {
	s = strings.TrimSpace(cleanText(s))
	if s != "" && !strings.HasSuffix(s, ".") {
		s += "."
	}
	return s + after(next)
}

// reasonSentence returns the reason of a sandbox or an execution as a sentence: at most 300 bytes, beginning with a capital
// letter.
func reasonSentence(reason string) string {
	s := Sentence(oneLine(reason, 300), "")
	return strings.ToUpper(s[:min(1, len(s))]) + s[min(1, len(s)):]
}

func after(s string) string {
	if s == "" {
		return ""
	}
	return " " + s
}
