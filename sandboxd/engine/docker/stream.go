package docker

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
)

// stream is an exec's connection as a net.Conn. What is written goes to the program's
// stdin as it is. What comes back is Docker's multiplexed stream: frames of stdout
// and stderr, each behind a header of eight bytes. The content comes from the sandbox,
// but the framing is the engine's; both are read with limits, and no length that is read
// is ever allocated.
type stream struct {
	net.Conn // the deadlines and addresses are its own

	onClose func()

	mu     sync.Mutex // one Read at a time
	reader *bufio.Reader
	kind   byte   // of the frame being read
	left   uint32 // of it
	stderr []byte // the first of it, for the error's text
}

var _ net.Conn = (*stream)(nil)

const (
	streamBuffer = 256 << 10
	frameHeader  = 8
	// maxFrame is far above what engines send (32 KiB), and says that framing was lost.
	maxFrame  = 16 << 20
	maxStderr = 4 << 10

	frameStdout = 1
	frameStderr = 2
	frameError  = 3 // the engine's own words
)

func newStream(conn net.Conn, buffered io.Reader) *stream {
	if c, ok := conn.(interface {
		SetReadBuffer(int) error
		SetWriteBuffer(int) error
	}); ok {
		// Without them the stream is slower, and works.
		_ = c.SetReadBuffer(streamBuffer)
		_ = c.SetWriteBuffer(streamBuffer)
	}
	return &stream{Conn: conn, reader: bufio.NewReaderSize(buffered, streamBuffer)}
}

// Read returns the program's stdout. A deadline that passes loses nothing.
func (s *stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	for {
		for s.left == 0 {
			if err := s.next(); err != nil {
				return 0, err
			}
		}
		into := p
		if s.kind != frameStdout {
			into = make([]byte, 512)
		}
		n, err := s.reader.Read(into[:min(len(into), int(s.left))])
		s.left -= uint32(n)
		if s.kind != frameStdout {
			s.stderr = append(s.stderr, into[:min(n, maxStderr-len(s.stderr))]...)
			n = 0
		}
		if n > 0 {
			return n, nil
		}
		if err == io.EOF && s.left > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return 0, s.explain(err)
		}
	}
}

// Close ends the stream, and with it the program.
func (s *stream) Close() error {
	if s.onClose != nil {
		s.onClose()
	}
	return s.Conn.Close()
}

// next reads a frame's header. It takes all of it or nothing.
func (s *stream) next() error {
	header, err := s.reader.Peek(frameHeader)
	if err != nil {
		if err == io.EOF && len(header) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return s.explain(err)
	}
	kind, size := header[0], binary.BigEndian.Uint32(header[4:])
	if kind < frameStdout || kind > frameError || header[1]|header[2]|header[3] != 0 || size > maxFrame {
		s.Close()
		return fmt.Errorf("the engine's stream is out of step: frame header % x", header)
	}
	if _, err := s.reader.Discard(frameHeader); err != nil {
		return err
	}
	s.kind, s.left = kind, size
	return nil
}

// explain adds to the stream's end what the program said on stderr, and takes the
// engine's address out of an error that is no more than its being closed.
func (s *stream) explain(err error) error {
	switch {
	case errors.Is(err, net.ErrClosed):
		return fmt.Errorf("the stream to the sandbox: %w", net.ErrClosed)
	case err == io.EOF && len(s.stderr) > 0:
		return fmt.Errorf("guest connect: %q: %w", strings.TrimSpace(string(s.stderr)), io.ErrUnexpectedEOF)
	}
	return err
}

// streams are those that are open, by container: none may be when its memory is saved. One that nobody has is true: it
// showed that the guest can be dialled, and is for who dials first.
type streams struct {
	mu   sync.Mutex
	open map[string]map[*stream]bool
}

func (l *streams) add(box string, s *stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.open = map[string]map[*stream]bool{}
	}
	if l.open[box] == nil {
		l.open[box] = map[*stream]bool{}
	}
	l.open[box][s] = false
}

// offer leaves a stream to the first who takes it.
func (l *streams) offer(box string, s *stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, open := l.open[box][s]; open {
		l.open[box][s] = true
	}
}

func (l *streams) take(box string) (s *stream, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s, free := range l.open[box] {
		if free {
			l.open[box][s] = false
			return s, true
		}
	}
	return nil, false
}

func (l *streams) drop(box string, s *stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open[box], s)
	if len(l.open[box]) == 0 {
		delete(l.open, box)
	}
}

func (l *streams) closeAll() {
	l.mu.Lock()
	boxes := slices.Collect(maps.Keys(l.open))
	l.mu.Unlock()
	for _, box := range boxes {
		l.close(box)
	}
}

// close closes a container's streams.
func (l *streams) close(box string) {
	l.mu.Lock()
	list := slices.Collect(maps.Keys(l.open[box]))
	l.mu.Unlock()
	for _, s := range list {
		s.Close()
	}
}
