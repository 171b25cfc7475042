// Package stdio contains the code that engines and the guest share for the streams between them. A stream is a
// connection over a stdin and a stdout: either those of `guest connect`, a process in the sandbox that passes them to
// the guest, or those of the guest itself, which need no other process in the sandbox. On both, the guest's side first
// sends [Joined].
//
//   - [AwaitJoined]: waits until either kind of stream has reached the guest (joined.go)
//   - [Stream]: the engine's side of the stream over the guest's own stdin and stdout, which are pipes (stdio.go)
//   - [Listener]: the guest's side of that stream (listen.go)
//   - [Pipes]: two pipes as a connection (pipes.go)
//
// When a sandbox starts, and each time its memory is restored, its guest gets new pipes. One stream uses them:
//
//  1. The engine sends a ticket: 16 random bytes.
//  2. The guest sends [Joined]. The bytes that follow, in both directions, are the content of the stream.
//  3. The engine closes its end of the guest's stdin.
//  4. The guest sends the ticket back when it has closed the stream. After that, the engine may save the sandbox's
//     memory.
//
// For any further stream until the next restore, the engine runs `guest connect`.
//
// The guest's own pipes need no process to be started in the sandbox. On the gvisor engine this saves about 18 % of the time
// from create_sandbox to the result of the first statement, and 30 % of the time of a call that resumes a sandbox
// (medians of 25 interleaved runs with and without: 584 and 715 ms, 296 and 419 ms). Later calls take the same time.
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

// Flag is the flag of `guest serve` that makes the guest listen on its stdin and stdout.
const Flag = "--stdio"

const ticketBytes = 16

// drainTimeout is how long, after the end of a stream, the engine waits for the ticket and the guest tries to send it. Tests
// change it.
var drainTimeout = 2 * time.Second

// Stream is the engine's side of a stream over the guest's own stdin and stdout. It implements [net.Conn]. The caller
// must call Open before it reads or writes.
type Stream struct {
	streamSide
	ticket []byte
	ended  chan struct{}
	once   sync.Once
}

// New returns a stream over p. p must be new pipes whose other ends are, or will become, the guest's stdin and stdout.
// Closing the stream closes both files. The caller must close the stream.
func New(p Pipes) *Stream {
	s := &Stream{streamSide: streamSide{Pipes: p}, ticket: make([]byte, ticketBytes), ended: make(chan struct{})}
	_, _ = rand.Read(s.ticket) // rand.Read never fails
	return s
}

// Open sends the ticket and waits until the guest has accepted the stream. If Open fails, it closes the stream.
func (s *Stream) Open(ctx context.Context) error {
	if _, err := s.Write(s.ticket); err != nil {
		s.Close()
		return fmt.Errorf("open the stream to the guest: %w", err)
	}
	return AwaitJoined(ctx, s)
}

// Close closes the stream, which need not have been opened. It does not wait for the guest: see [Stream.Ended]. It may
// be called more than once.
func (s *Stream) Close() error {
	s.once.Do(func() {
		s.end() // otherwise a concurrent Read could consume the ticket
		s.Out.Close()
		go func() {
			defer close(s.ended)
			defer s.In.Close()
			_ = s.In.SetReadDeadline(time.Now().Add(drainTimeout))
			awaitTicket(s.In, s.ticket)
		}()
	})
	return nil
}

// Ended returns a channel that is closed after Close, when the guest has sent the ticket, has ended, or has not sent
// the ticket for drainTimeout.
func (s *Stream) Ended() <-chan struct{} { return s.ended }

// awaitTicket reads from the pipe in until the last bytes that it has read are the ticket, or until a read fails.
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
