package server

import (
	"bufio"
	"bytes"
	"io"

	"github.com/dormouse-sandbox/dormouse/server/spool"
)

// lines reads messages from a stream that has one message on each line.
type lines struct {
	r      *bufio.Reader
	folder *spool.Folder
	limits spool.Limits
}

func newLines(r io.Reader, folder *spool.Folder, maximum int) *lines {
	return &lines{r: bufio.NewReaderSize(r, spool.Long), folder: folder, limits: spool.Limits{Message: int64(maximum)}}
}

// next returns the next message, or a rejection. Both are nil for a line that needs no answer. A last line without a
// newline counts as a line. At the end of the stream, next returns io.EOF. A rejected line has been read to its end, so
// the caller can continue with the line after it. The caller must close the message.
func (l *lines) next() (*message, *rejection, error) {
	part, err := l.r.ReadSlice('\n')
	if err != bufio.ErrBufferFull && len(part) <= l.maximum()+1 { // nearly always: the line is short
		if err != nil && (err != io.EOF || len(part) == 0) {
			return nil, nil, err
		}
		m, refused := parse(bytes.Clone(part)) // if err is io.EOF, the next call of next returns io.EOF
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
	return m, refused, nil
}

// maximum returns the message limit as an int. It returns at most 1 GiB, so that the result fits into an int of 32 bits. next
// compares the result only with the length of a piece, which is at most spool.Long, so a limit above 1 GiB works too.
func (l *lines) maximum() int { return int(min(l.limits.Message, 1<<30)) }
