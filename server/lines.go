package server

import (
	"bufio"
	"bytes"
	"io"
)

// lines reads lines of at most max bytes from a stream.
type lines struct {
	r   *bufio.Reader
	max int
}

func newLines(r io.Reader, most int) *lines {
	return &lines{r: bufio.NewReaderSize(r, 64<<10), max: most}
}

// tooLong is a line over the limit. Its middle is thrown away as it arrives; the ends
// are kept, because they may tell which request it was.
type tooLong struct{ head, tail []byte }

func (*tooLong) Error() string { return "the line is too long" }

const keptEnd = 4 << 10

// next returns the next line without its end. The last line counts even when no end
// follows; then comes io.EOF. A [tooLong] line has been read to its end, and the
// stream goes on behind it.
func (l *lines) next() ([]byte, error) {
	var line []byte
	for {
		part, err := l.r.ReadSlice('\n')
		if len(line)+len(part) > l.max+1 {
			return nil, l.skip(append(line, part...), err)
		}
		line = append(line, part...)
		switch err {
		case bufio.ErrBufferFull:
			continue
		case nil:
			return bytes.TrimRight(line, "\r\n"), nil
		case io.EOF:
			if len(line) > 0 {
				return line, nil // the next read finds the end again
			}
		}
		return nil, err
	}
}

// skip reads the rest of a line that is too long, begun with start.
func (l *lines) skip(start []byte, err error) error {
	long := &tooLong{head: bytes.Clone(start[:min(len(start), keptEnd)])}
	tail := bytes.Clone(start[max(0, len(start)-keptEnd):])
	for err == bufio.ErrBufferFull {
		var part []byte
		part, err = l.r.ReadSlice('\n')
		tail = append(tail, part...)
		tail = append(tail[:0], tail[max(0, len(tail)-keptEnd):]...)
	}
	if err != nil && err != io.EOF {
		return err
	}
	long.tail = bytes.TrimRight(tail, "\r\n")
	return long
}
