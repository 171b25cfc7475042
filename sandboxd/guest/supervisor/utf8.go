//go:build linux

package supervisor

import (
	"bytes"
	"unicode/utf8"
)

// decoder makes a byte stream valid UTF-8. A character that is split between two
// chunks waits for its other half; what can never become one turns into U+FFFD.
type decoder struct {
	half []byte // the beginning of a character, at most three bytes
}

// next returns the chunk as text, after what was left of the one before. The result is valid
// until the next call.
func (d *decoder) next(chunk []byte) []byte {
	if len(d.half) > 0 {
		chunk = append(d.half, chunk...)
		d.half = nil
	}
	if n := unfinished(chunk); n > 0 {
		d.half = append(d.half, chunk[len(chunk)-n:]...)
		chunk = chunk[:len(chunk)-n]
	}
	if utf8.Valid(chunk) {
		return chunk
	}
	return bytes.ToValidUTF8(chunk, []byte("\uFFFD"))
}

// rest returns what still waits, at the end of the stream.
func (d *decoder) rest() []byte {
	if len(d.half) == 0 {
		return nil
	}
	d.half = nil
	return []byte("\uFFFD")
}

// unfinished returns how many bytes at the end of p begin a character that goes on.
func unfinished(p []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(p); n++ {
		if c := p[len(p)-n]; utf8.RuneStart(c) {
			if c >= utf8.RuneSelf && !utf8.FullRune(p[len(p)-n:]) {
				return n
			}
			return 0
		}
	}
	return 0
}

// charStart moves i down to the beginning of the character that it is in.
func charStart(p []byte, i int) int {
	for i > 0 && i < len(p) && !utf8.RuneStart(p[i]) {
		i--
	}
	return i
}

// charEnd moves i up to the beginning of the next character, if it is inside one.
func charEnd(p []byte, i int) int {
	for i < len(p) && !utf8.RuneStart(p[i]) {
		i++
	}
	return i
}
