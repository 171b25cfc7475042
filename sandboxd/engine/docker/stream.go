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

// stream is the connection of an exec as a net.Conn. Written bytes go to the program's stdin unchanged. The bytes
// that come back are Docker's multiplexed stream: frames of stdout and stderr, each with a header of eight bytes. The
// content comes from the sandbox and the framing from the engine. Both are read with limits, and no length that was
// read decides how much memory is allocated.
type stream struct {
	net.Conn // provides deadlines and addresses

	closing sync.Once
	ended   chan struct{} // closed by Close

	mu     sync.Mutex // held during Read; guards the fields below
	reader *bufio.Reader
	kind   byte   // the kind of the frame that is being read
	left   uint32 // the number of unread bytes in the frame that is being read
	stderr []byte // the first bytes of the program's stderr, for error texts
}

var _ streams.Stream = (*stream)(nil)

const (
	streamBuffer = 256 << 10
	frameHeader  = 8
	// maxFrame is the size limit of a frame. Engines send frames of at most 32 KiB, so a size above maxFrame means that
	// the bytes that were read are not a frame header.
	maxFrame  = 16 << 20
	maxStderr = 4 << 10

	frameStdout = 1
	frameStderr = 2
	frameError  = 3 // an error message of the engine
)

func newStream(conn net.Conn, buffered io.Reader) *stream {
	if c, ok := conn.(interface {
		SetReadBuffer(int) error
		SetWriteBuffer(int) error
	}); ok {
		// If this fails, the stream is slower but works.
		_ = c.SetReadBuffer(streamBuffer)
		_ = c.SetWriteBuffer(streamBuffer)
	}
	return &stream{Conn: conn, ended: make(chan struct{}), reader: bufio.NewReaderSize(buffered, streamBuffer)}
}

// Read reads the program's stdout. If the deadline passes, no bytes are lost: a later Read continues at the same byte.
func (s *stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	for {
		for s.left == 0 {
			if err := s.readHeader(); err != nil {
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

// Close closes the stream, and with it the program's stdin, which makes the program end.
func (s *stream) Close() error {
	s.closing.Do(func() { close(s.ended) })
	return s.Conn.Close()
}

// Ended implements [streams.Stream]. Close closes the channel, but the program can still run then. Only the engine
// reports when the program has ended (see awaitDisconnect).
func (s *stream) Ended() <-chan struct{} { return s.ended }

// readHeader reads the header of a frame. It consumes all eight bytes or none.
func (s *stream) readHeader() error {
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
		return fmt.Errorf("the engine sent an invalid frame header: % x", header)
	}
	if _, err := s.reader.Discard(frameHeader); err != nil {
		return err
	}
	s.kind, s.left = kind, size
	return nil
}

// explain adds the program's stderr to the error at the stream's end. It replaces the error of a closed connection,
// because that error contains the engine's address.
func (s *stream) explain(err error) error {
	switch {
	case errors.Is(err, net.ErrClosed):
		return fmt.Errorf("the stream to the sandbox: %w", net.ErrClosed)
	case err == io.EOF && len(s.stderr) > 0:
		return fmt.Errorf("guest connect: %q: %w", strings.TrimSpace(string(s.stderr)), io.ErrUnexpectedEOF)
	}
	return err
}
