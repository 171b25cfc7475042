package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"unicode/utf16"
	"unicode/utf8"
)

var (
	errNotUTF8 = errors.New("the message is not valid UTF-8")
	errEscape  = errors.New("a string has an escape that JSON has not")
	errControl = errors.New("a string has a control character that is not escaped")
)

// unescaper writes what a JSON string says. The string comes in pieces that are cut
// anywhere. What it writes is what encoding/json would read: of a lone surrogate, U+FFFD.
type unescaper struct {
	to    *store
	carry []byte // of an escape that is not complete
	part  []byte // of a character that is not complete
	said  []byte // for escapes
}

// longestEscape is a pair of surrogates.
const longestEscape = len(`\ud83d\ude00`)

// write takes the next piece of the string, as it is between the quotes.
func (u *unescaper) write(p []byte) error {
	for len(u.carry) > 0 && len(p) > 0 {
		had := len(u.carry)
		joined := append(u.carry, p[:min(len(p), longestEscape-had)]...)
		r, n, err := decodeEscape(joined, false)
		switch {
		case err != nil:
			return err
		case n == 0: // and p is at its end
			u.carry, p = joined, p[len(joined)-had:]
			continue
		case n < had: // a lone surrogate, and the beginning of another escape
			u.carry = joined[n:had]
		default:
			u.carry, p = nil, p[n-had:]
		}
		if _, err := u.to.Write(utf8.AppendRune(nil, r)); err != nil {
			return err
		}
	}
	return u.pieces(p, false)
}

// end takes the end of the string.
func (u *unescaper) end() error {
	rest := u.carry
	u.carry = nil
	if err := u.pieces(rest, true); err != nil {
		return err
	}
	if len(u.part) > 0 {
		return errNotUTF8
	}
	return nil
}

func (u *unescaper) pieces(p []byte, last bool) error {
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\\')
		if i < 0 {
			return u.plain(p)
		}
		if i > 0 {
			if err := u.plain(p[:i]); err != nil {
				return err
			}
		}
		if len(u.part) > 0 {
			return errNotUTF8
		}
		n, err := u.escapes(p[i:], last)
		if err != nil {
			return err
		}
		if p = p[i+n:]; n == 0 {
			u.carry = bytes.Clone(p)
			return nil
		}
	}
	return nil
}

// escapes writes the escapes that p begins with, as many as are next to each other, and
// returns their length: 0 when more is needed to know the first.
func (u *unescaper) escapes(p []byte, last bool) (read int, err error) {
	said := u.said[:0]
	for read < len(p) && p[read] == '\\' && len(said) < 4096 {
		r, n, err := decodeEscape(p[read:], last)
		if err != nil {
			return 0, err
		}
		if n == 0 {
			break
		}
		said = utf8.AppendRune(said, r)
		read += n
	}
	u.said = said
	if len(said) == 0 {
		return 0, nil
	}
	_, err = u.to.Write(said)
	return read, err
}

var simpleEscapes = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// decodeEscape returns the character of the escape that p begins with, and its length: 0
// when more is needed to know.
func decodeEscape(p []byte, last bool) (r rune, n int, err error) {
	short := func() (rune, int, error) {
		if last {
			return 0, 0, errEscape
		}
		return 0, 0, nil
	}
	if len(p) < 2 {
		return short()
	}
	if c := simpleEscapes[p[1]]; c != 0 {
		return rune(c), 2, nil
	}
	if p[1] != 'u' {
		return 0, 0, errEscape
	}
	r, ok := hex4(p[2:])
	switch {
	case !ok:
		return 0, 0, errEscape
	case len(p) < 6:
		return short()
	case !utf16.IsSurrogate(r):
		return r, 6, nil
	case len(p) < longestEscape && !last && maybeEscape(p[6:]):
		return 0, 0, nil
	}
	if len(p) >= longestEscape && p[6] == '\\' && p[7] == 'u' {
		if low, ok := hex4(p[8:]); ok {
			if both := utf16.DecodeRune(r, low); both != utf8.RuneError {
				return both, longestEscape, nil
			}
		}
	}
	return utf8.RuneError, 6, nil
}

// maybeEscape reports whether p may be the beginning of \u.
func maybeEscape(p []byte) bool {
	return len(p) == 0 || p[0] == '\\' && (len(p) == 1 || p[1] == 'u')
}

// hex4 reads up to four hexadecimal digits, and says whether they are some.
func hex4(p []byte) (r rune, ok bool) {
	for _, c := range p[:min(4, len(p))] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// plain writes text without escapes.
func (u *unescaper) plain(p []byte) error {
	if len(u.part) > 0 || !isPlainASCII(p) {
		if hasControl(p) {
			return errControl
		}
		if !u.valid(p) {
			return errNotUTF8
		}
	}
	_, err := u.to.Write(p)
	return err
}

// valid reports whether p goes on and is UTF-8. A character that is cut off at the end is
// kept for the next piece.
func (u *unescaper) valid(p []byte) bool {
	for len(u.part) > 0 && len(p) > 0 {
		u.part, p = append(u.part, p[0]), p[1:]
		if utf8.FullRune(u.part) {
			if !utf8.Valid(u.part) {
				return false
			}
			u.part = u.part[:0]
		}
	}
	for i := 1; i <= min(utf8.UTFMax-1, len(p)); i++ {
		if tail := p[len(p)-i:]; utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) {
				u.part, p = append(u.part[:0], tail...), p[:len(p)-i]
			}
			break
		}
	}
	return utf8.Valid(p)
}

// Eight bytes at a time.
const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// isPlainASCII reports whether p is what base64 is, and most text: no byte is below 0x20 or
// above 0x7f. It looks at 32 bytes at a time.
func isPlainASCII(p []byte) bool {
	for ; len(p) >= 32; p = p[32:] {
		a, b := binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:])
		c, d := binary.LittleEndian.Uint64(p[16:]), binary.LittleEndian.Uint64(p[24:])
		// Of a byte below 0x80 the highest bit is set by adding 0x60 when it is 0x20 or more.
		all := (a + 0x60*ones) & (b + 0x60*ones) & (c + 0x60*ones) & (d + 0x60*ones)
		if (a|b|c|d)&highs != 0 || all&highs != highs {
			return false
		}
	}
	for _, c := range p {
		if c < 0x20 || c >= 0x80 {
			return false
		}
	}
	return true
}

// hasControl reports whether p has a byte below 0x20.
func hasControl(p []byte) bool {
	for ; len(p) >= 8; p = p[8:] {
		x := binary.LittleEndian.Uint64(p)
		if (x-0x20*ones)&^x&highs != 0 {
			return true
		}
	}
	for _, c := range p {
		if c < 0x20 {
			return true
		}
	}
	return false
}
