package tools

import (
	"context"
	"encoding/binary"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/dormouse-sandbox/dormouse/tools/render"
)

// byteOrder is a byte order of UTF-16. String returns its name for answers.
type byteOrder struct {
	binary.ByteOrder
	name string
}

func (o *byteOrder) String() string { return o.name }

// utf16Order returns the byte order of a file that begins with a UTF-16 byte order mark, as Windows programs write it,
// otherwise nil. data is the part of the file at r.Offset. If r.Offset is not 0, utf16Order reads the mark from the file in
// the sandbox.
func (t *toolset) utf16Order(ctx context.Context, r render.File, data []byte) *byteOrder {
	if r.Offset%2 != 0 {
		return nil
	}
	mark := data
	if r.Offset > 0 {
		r.Offset = 0
		mark, _ = t.fetch(ctx, &r, 2) // after an error mark is empty, so the file counts as not UTF-16
	}
	switch {
	case len(mark) < 2:
	case mark[0] == 0xff && mark[1] == 0xfe:
		return &byteOrder{binary.LittleEndian, "little-endian"}
	case mark[0] == 0xfe && mark[1] == 0xff:
		return &byteOrder{binary.BigEndian, "big-endian"}
	}
	return nil
}

// utf16Part decodes UTF-16 text. It omits the byte order mark. It returns the text and how many bytes of data it
// decoded. If whole is false, data may end in the middle of a character, which utf16Part does not decode. If data is
// not text, used is 0.
func utf16Part(data []byte, order binary.ByteOrder, whole bool) (text string, used int) {
	if whole && len(data)%2 != 0 {
		return "", 0
	}
	var b strings.Builder
	for used+2 <= len(data) {
		r, size := rune(order.Uint16(data[used:])), 2
		if utf16.IsSurrogate(r) {
			if used+4 > len(data) && !whole {
				break
			}
			var low rune
			if used+4 <= len(data) {
				low = rune(order.Uint16(data[used+2:]))
			}
			if r, size = utf16.DecodeRune(r, low), 4; r == utf8.RuneError {
				return "", 0
			}
		}
		if r == 0 {
			return "", 0
		}
		if r != '\ufeff' || used > 0 {
			b.WriteRune(r)
		}
		used += size
	}
	return b.String(), used
}
