package server

import (
	"bufio"
	"bytes"
	"io"

	"github.com/dormouse-sandbox/dormouse/server/spool"
)

// lines reads messages from a stream, one a line.
type lines struct {
	r      *bufio.Reader
	folder *spool.Folder
	limits spool.Limits
}

func newLines(r io.Reader, folder *spool.Folder, most int) *lines {
	return &lines{r: bufio.NewReaderSize(r, spool.Long), folder: folder, limits: spool.Limits{Message: int64(most)}}
}

// next returns the next message. It returns nil and nil for a line that needs no answer. The
// last line counts even when no end follows; then comes io.EOF. What is refused has
// been read to its end, and the stream goes on behind it.
func (l *lines) next() (*message, *rejection, error) {
	part, err := l.r.ReadSlice('\n')
	if err != bufio.ErrBufferFull && len(part) <= l.most()+1 { // nearly always
		if err != nil && (err != io.EOF || len(part) == 0) {
			return nil, nil, err
		}
		m, refused := parse(bytes.Clone(part)) // after io.EOF the next read finds the end again
		return m, refused, nil
	}
	long := l.folder.NewMessage(l.limits)
	for err == bufio.ErrBufferFull {
		long.Write(part)
		part, err = l.r.ReadSlice('\n')
	}
	long.Write(bytes.TrimRight(part, "\r\n"))
	if err != nil && err != io.EOF {
		long.Close()
		return nil, nil, err
	}
	m, refused := parseSpooled(long)
	if m == nil {
		long.Close()
	}
	return m, refused, nil
}

// most is the limit of a line, as far as it is below that of what comes in one piece.
func (l *lines) most() int { return int(min(l.limits.Message, 1<<30)) }
