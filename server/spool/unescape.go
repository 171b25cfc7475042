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

// unescaper unescapes a JSON string and writes the result to a store. The string is passed in pieces of any size. The
// result is the same as that of encoding/json; a lone surrogate becomes U+FFFD.
type unescaper struct {
	to        *store
	carry     []byte // the beginning of an escape at the end of the last piece; the rest is in the next piece
	part      []byte // the beginning of a UTF-8 character at the end of the last piece; the rest is in the next piece
	unescaped []byte // a buffer for unescaped characters, reused by escapes
}

// longestEscape is the length of the longest escape, a pair of surrogates.
const longestEscape = len(`\ud83d\ude00`)

// write unescapes the next piece of the string. p has no quotes around it.
func (u *unescaper) write(p []byte) error {
	for len(u.carry) > 0 && len(p) > 0 {
		had := len(u.carry)
		joined := append(u.carry, p[:min(len(p), longestEscape-had)]...)
		r, n, err := decodeEscape(joined, false)
		switch {
		case err != nil:
			return err
		case n == 0: // the escape is still incomplete, and p is used up
			u.carry, p = joined, p[len(joined)-had:]
			continue
		case n < had: // u.carry was a lone surrogate and the beginning of another escape
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

// end ends the string. It returns an error if an escape or a character is incomplete.
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

// escapes writes the characters of the consecutive escapes at the beginning of p, and returns the length of these escapes.
// The length is 0 if more bytes are needed to decode the first one. last means that p is the end of the string.
func (u *unescaper) escapes(p []byte, last bool) (read int, err error) {
	unescaped := u.unescaped[:0]
	for read < len(p) && p[read] == '\\' && len(unescaped) < 4096 {
		r, n, err := decodeEscape(p[read:], last)
		if err != nil {
			return 0, err
		}
		if n == 0 {
			break
		}
		unescaped = utf8.AppendRune(unescaped, r)
		read += n
	}
	u.unescaped = unescaped
	if len(unescaped) == 0 {
		return 0, nil
	}
	_, err = u.to.Write(unescaped)
	return read, err
}

var simpleEscapes = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// decodeEscape returns the character of the escape at the beginning of p, and the escape's length. The length is 0 if more
// bytes are needed to decode it. last means that p is the end of the string.
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

// maybeEscape reports whether p can be the beginning of an escape like \u1234: p is empty, is a backslash, or begins with \u.
func maybeEscape(p []byte) bool {
	return len(p) == 0 || p[0] == '\\' && (len(p) == 1 || p[1] == 'u')
}

// hex4 decodes the first four bytes of p, or fewer if p is shorter, as hexadecimal digits. It reports false if one of them
// is not such a digit.
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

// plain writes a piece of the string that has no escapes.
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

// valid reports whether the incomplete character of the previous piece, followed by p, is valid UTF-8. It keeps a character
// that is incomplete at the end of p in u.part, for the next piece.
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

// Masks for checks of eight bytes at a time.
const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// isPlainASCII reports whether no byte of p is below 0x20 or above 0x7f. That is true for base64 and most text. It checks 32
// bytes at a time.
func isPlainASCII(p []byte) bool {
	for ; len(p) >= 32; p = p[32:] {
		a, b := binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:])
		c, d := binary.LittleEndian.Uint64(p[16:]), binary.LittleEndian.Uint64(p[24:])
		// Adding 0x60 to a byte below 0x80 sets its highest bit if and only if the byte is 0x20 or more.
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
