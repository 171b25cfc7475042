package docker

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/streams"
)

// stream is an exec's connection as a net.Conn. What is written goes to the program's
// stdin as it is. What comes back is Docker's multiplexed stream: frames of stdout
// and stderr, each behind a header of eight bytes. The content comes from the sandbox,
// but the framing is the engine's; both are read with limits, and no length that is read
// is ever allocated.
type stream struct {
	net.Conn // the deadlines and addresses are its own

	closing sync.Once
	ended   chan struct{} // closed by Close

	mu     sync.Mutex // one Read at a time
	reader *bufio.Reader
	kind   byte   // of the frame being read
	left   uint32 // of it
	stderr []byte // the first of it, for the error's text
}

var _ streams.Stream = (*stream)(nil)

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
	return &stream{Conn: conn, ended: make(chan struct{}), reader: bufio.NewReaderSize(buffered, streamBuffer)}
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
	s.closing.Do(func() { close(s.ended) })
	return s.Conn.Close()
}

// Ended implements [streams.Stream]. When the program has ended is for the engine to say (hangUp).
func (s *stream) Ended() <-chan struct{} { return s.ended }

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
