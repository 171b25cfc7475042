//go:build linux

package supervisor

import (
	"bytes"
	"unicode/utf8"
)

// decoder turns a byte stream into valid UTF-8. It holds back the beginning of a character that is split between two
// chunks, and replaces invalid bytes with U+FFFD.
type decoder struct {
	half []byte // the beginning of a character, at most three bytes
}

// next returns the bytes that were held back, followed by the chunk, as valid UTF-8. The result is valid until the
// next call.
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

// rest is called at the end of the stream. It returns U+FFFD if bytes are held back, and nil otherwise.
func (d *decoder) rest() []byte {
	if len(d.half) == 0 {
		return nil
	}
	d.half = nil
	return []byte("\uFFFD")
}

// unfinished returns how many bytes at the end of p are the beginning of an incomplete character.
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
