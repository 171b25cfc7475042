package wire

import (
	"fmt"
	"io"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Limits of the JSON that a client sends. A decoded value needs up to a hundred times the memory of its text, so a
// limit on a message's size does not limit the memory that decoding needs. The largest useful message, 100 files in one
// call, has 600 values.
const (
	MaxValues = 10_000
	MaxDepth  = 64
)

// CheckShape returns an error of kind invalid if text has more than maxValues JSON values or nests them deeper than
// [MaxDepth]. Each object, array, key, string, number and literal counts as a value. It allocates no memory, and
// accepts text that is not JSON if that is within the limits.
func CheckShape(text []byte, maxValues int) error {
	s := shape{maximum: maxValues}
	return s.scan(text)
}

// shape counts the values of a JSON text that arrives in pieces.
type shape struct {
	maximum  int
	values   int
	depth    int
	inString bool
	escaped  bool // the previous byte was an unescaped backslash in a string
	inScalar bool // the previous byte was part of a number or a literal
}

// scan processes the next piece. The caller must not call it again after an error.
func (s *shape) scan(p []byte) error {
	for _, c := range p {
		switch {
		case s.escaped:
			s.escaped = false
		case s.inString:
			s.escaped = c == '\\'
			s.inString = c != '"'
		default:
			s.scanOutsideString(c)
		}
		if s.values > s.maximum || s.depth > MaxDepth {
			return s.exceeded()
		}
	}
	return nil
}

// scanOutsideString processes a byte that is not inside a string.
func (s *shape) scanOutsideString(c byte) {
	scalar := false
	switch c {
	case ' ', '\t', '\r', '\n', ',', ':':
	case '{', '[':
		s.values++
		s.depth++
	case '}', ']':
		s.depth--
	case '"':
		s.values++
		s.inString = true
	default:
		if !s.inScalar {
			s.values++
		}
		scalar = true
	}
	s.inScalar = scalar
}

func (s *shape) exceeded() error {
	if s.depth > MaxDepth {
		return sandbox.Errorf(sandbox.Invalid, "the JSON is nested more than %d levels deep, which is the limit", MaxDepth)
	}
	return sandbox.Errorf(sandbox.Invalid, "the JSON has more than %s values, which is the limit: send large content as text in a file", thousands(s.maximum))
}

// thousands returns n as text, with a comma before its last three digits.
func thousands(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%d,%03d", n/1000, n%1000)
}

// shapedReader reads JSON from r, and returns an error when the text exceeds a limit.
type shapedReader struct {
	r     io.Reader
	shape shape
}

func (s *shapedReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if exceeded := s.shape.scan(p[:n]); exceeded != nil {
		return 0, exceeded
	}
	return n, err
}
