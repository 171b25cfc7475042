// Package stdio is what engine and guest have in common of the streams between them, which go over stdin and stdout: those of
// `guest connect`, which says [Joined] first (joined.go), or the guest's own, which need no other process in the sandbox.
//
//   - [Stream]: the engine's side of the guest's own, two pipes of which it holds the other ends
//   - [Listener]: the guest's (listen.go)
//   - [Pipes]: two pipes as a connection (pipes.go)
//
// Each life of a sandbox, which is its start and each time that its memory is restored, has new pipes, and one stream over them:
//
//	the engine says a ticket: 16 bytes that no other stream has
//	the guest says [Joined], and all that follows is the stream
//	the engine closes its end
//	the guest says the ticket: it holds nothing of the stream any more, and its memory may be saved
//
// Whoever needs another stream in that life runs `guest connect`.
package stdio

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"sync"
	"time"
)

// Flag has the guest listen on its stdin and stdout.
const Flag = "--stdio"

const ticketBytes = 16

// lastWords is how long the other side may take to let go of a stream that has ended.
const lastWords = 2 * time.Second

// Stream is the engine's side. When it has been opened it is a [net.Conn].
type Stream struct {
	half
	ticket []byte
	ended  chan struct{}
	once   sync.Once
}

// New returns a stream over pipes that are new: the guest has them, or will be given them.
func New(p Pipes) *Stream {
	s := &Stream{half: half{Pipes: p}, ticket: make([]byte, ticketBytes), ended: make(chan struct{})}
	_, _ = rand.Read(s.ticket) // it never fails
	return s
}

// Open returns when the guest has taken the stream. If it fails, the stream is closed.
func (s *Stream) Open(ctx context.Context) error {
	if _, err := s.Write(s.ticket); err != nil {
		s.Close()
		return fmt.Errorf("open the stream to the guest: %w", err)
	}
	return AwaitJoined(ctx, s)
}

// Close closes the stream, also one that was not opened. It may be called twice, and waits for nothing.
func (s *Stream) Close() error {
	s.once.Do(func() {
		s.end() // or who reads would take the ticket
		s.Out.Close()
		go func() {
			defer close(s.ended)
			defer s.In.Close()
			_ = s.In.SetReadDeadline(time.Now().Add(lastWords))
			awaitTicket(s.In, s.ticket)
		}()
	})
	return nil
}

// Ended is closed when the stream has been closed, and the guest knows that or has not said so for long.
func (s *Stream) Ended() <-chan struct{} { return s.ended }

// awaitTicket reads until the ticket is what came last, or nothing more comes.
func awaitTicket(in io.Reader, ticket []byte) {
	buffer := make([]byte, 64<<10)
	for have := 0; ; {
		n, err := in.Read(buffer[have:])
		have += n
		if err != nil || bytes.HasSuffix(buffer[:have], ticket) {
			return
		}
		last := buffer[max(have-ticketBytes, 0):have]
		have = copy(buffer, last)
	}
}
