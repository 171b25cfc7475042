package tools

import (
	"bufio"
	"io"
	"strings"

	"github.com/emmansun/base64"
)

// base64Reader decodes the variants of base64 that clients send. The text may use the standard or the URL alphabet, may
// have padding and white space, and may begin like a data: URI. Any other text is an error of kind invalid. The reader
// decodes 64 KiB at a time, because files can have 100 MiB.
type base64Reader struct {
	src     *bufio.Reader
	started bool
	padded  bool
	read    int64 // characters read so far, for positions in error messages

	in   []byte // base64 characters
	rest int    // the number of characters at the beginning of in that are left over from the previous piece
	buf  []byte // decoded bytes
	out  []byte // the part of buf that Read has not returned yet
	err  error
}

const base64Piece = 64 << 10

func newBase64Reader(r io.Reader) *base64Reader {
	// The buffer is for Peek in skipDataURI. bufio reads large pieces directly into in, without copying them through
	// the buffer.
	return &base64Reader{src: bufio.NewReaderSize(r, 2*maxDataURI), in: make([]byte, base64Piece), buf: make([]byte, base64Piece)}
}

func (b *base64Reader) Read(p []byte) (int, error) {
	for len(b.out) == 0 {
		if b.err != nil {
			return 0, b.err
		}
		b.err = b.fill()
	}
	n := copy(p, b.out)
	b.out = b.out[n:]
	return n, nil
}

// fill decodes the next piece into out. It may set out and also return an error, such as io.EOF.
func (b *base64Reader) fill() error {
	if !b.started {
		b.started = true
		if err := b.skipDataURI(); err != nil {
			return err
		}
	}
	n, end := io.ReadFull(b.src, b.in[b.rest:])
	if end == io.ErrUnexpectedEOF {
		end = io.EOF
	}
	if b.rest == 0 && n%4 == 0 && !b.padded { // the common case: no white space, padding or URL alphabet
		// Decode skips line breaks. If the piece contains any, m is too small, and the piece is decoded below instead.
		if m, err := base64.RawStdEncoding.Decode(b.buf, b.in[:n]); err == nil && m == n/4*3 {
			b.read += int64(n)
			b.out = b.buf[:m]
			return end
		}
	}
	kept, err := b.normalise(b.in[b.rest : b.rest+n])
	if err != nil {
		return err
	}
	total := b.rest + kept
	whole := total / 4 * 4
	if end != nil {
		whole = total
	}
	m, err := base64.RawStdEncoding.Decode(b.buf, b.in[:whole])
	if err != nil {
		return invalid("the base64 is cut off: its length cannot be right")
	}
	b.out = b.buf[:m]
	b.rest = copy(b.in, b.in[whole:total])
	return end
}

const maxDataURI = 256

func (b *base64Reader) skipDataURI() error {
	head, err := b.src.Peek(maxDataURI)
	if err != nil && err != io.EOF {
		return err
	}
	if !strings.HasPrefix(string(head), "data:") {
		return nil
	}
	comma := strings.IndexByte(string(head), ',')
	if comma < 0 || !strings.HasSuffix(string(head[:comma]), ";base64") {
		return invalid("the base64 begins like a data: URI that is not base64: send data:…;base64,… or the base64 alone")
	}
	b.read = int64(comma + 1)
	_, err = b.src.Discard(comma + 1)
	return err
}

// classes maps each byte to its meaning in base64: a character of the standard alphabet, ' ' for white space, '=' for
// padding, or 0 if the byte is invalid.
var classes = func() (t [256]byte) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=") {
		t[c] = c
	}
	t['-'], t['_'] = '+', '/'
	for _, c := range []byte(" \t\r\n") {
		t[c] = ' '
	}
	return t
}()

// normalise rewrites p in place: it removes white space and padding, and replaces characters of the URL alphabet by
// those of the standard alphabet. It returns how many bytes of p are left.
func (b *base64Reader) normalise(p []byte) (int, error) {
	kept := 0
	for i, c := range p {
		class := classes[c]
		switch {
		case class == ' ':
		case class == 0:
			return 0, invalid("the base64 has the character %q at position %d: send standard or URL-safe base64, or use text for text", c, b.read+int64(i))
		case class == '=':
			b.padded = true
		case b.padded:
			return 0, invalid("the base64 goes on after its padding (=) at position %d", b.read+int64(i))
		default:
			if kept != i || class != c {
				p[kept] = class
			}
			kept++
		}
	}
	b.read += int64(len(p))
	return kept, nil
}
