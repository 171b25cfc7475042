package gvisor

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

const (
	pipeBytes = 1 << 20
	// lastWords is how long a program may take to end when its stream is closed, and its
	// stderr to be read when it has ended.
	lastWords = 2 * time.Second
)

// stream is the stdin and stdout of a runsc command: as a net.Conn where it is `guest connect`, unused where it is not.
type stream struct {
	in, out *os.File // pipes, which have deadlines
	cmd     *exec.Cmd
	stderr  *bounded
	ended   chan struct{} // closed when the command has ended and was waited for
	err     error         // how, then

	once sync.Once
}

var _ net.Conn = (*stream)(nil)

// startStream starts a command.
func startStream(cmd *exec.Cmd) (*stream, error) {
	theirIn, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirIn.Close()
	out, theirOut, err := os.Pipe()
	if err != nil {
		in.Close()
		return nil, err
	}
	defer theirOut.Close()
	growPipe(in)
	growPipe(out)
	s := &stream{in: in, out: out, cmd: cmd, stderr: &bounded{max: 8 << 10}, ended: make(chan struct{})}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirIn, theirOut, s.stderr
	cmd.WaitDelay = lastWords
	if err := cmd.Start(); err != nil {
		in.Close()
		out.Close()
		return nil, err
	}
	go func() {
		s.err = cmd.Wait()
		close(s.ended)
	}()
	return s, nil
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.out.Read(p)
	if err == io.EOF {
		if said := s.stderr.String(); said != "" {
			err = fmt.Errorf("guest connect: %q: %w", said, io.ErrUnexpectedEOF)
		}
	}
	return n, err
}

func (s *stream) Write(p []byte) (int, error) { return s.in.Write(p) }

// Close ends the stream, and with it the program. It may be called twice.
func (s *stream) Close() error {
	s.once.Do(func() {
		s.in.Close()
		s.out.Close()
		time.AfterFunc(lastWords, func() {
			select {
			case <-s.ended:
			default:
				_ = s.cmd.Process.Kill() // it does not heed the end of its stdin
			}
		})
	})
	return nil
}

func (s *stream) LocalAddr() net.Addr  { return pipeAddr{} }
func (s *stream) RemoteAddr() net.Addr { return pipeAddr{} }

func (s *stream) SetDeadline(t time.Time) error {
	if err := s.out.SetReadDeadline(t); err != nil {
		return err
	}
	return s.in.SetWriteDeadline(t)
}
func (s *stream) SetReadDeadline(t time.Time) error  { return s.out.SetReadDeadline(t) }
func (s *stream) SetWriteDeadline(t time.Time) error { return s.in.SetWriteDeadline(t) }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "runsc exec" }

// streams are those that are open: none may be when a sandbox is suspended. One that nobody has is true: it
// showed that the guest can be dialled, and is for who dials first.
type streams struct {
	mu   sync.Mutex
	open map[sandbox.ID]map[*stream]bool
}

func (l *streams) add(id sandbox.ID, s *stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.open = map[sandbox.ID]map[*stream]bool{}
	}
	if l.open[id] == nil {
		l.open[id] = map[*stream]bool{}
	}
	l.open[id][s] = false
}

// offer leaves a stream to the first who takes it.
func (l *streams) offer(id sandbox.ID, s *stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, open := l.open[id][s]; open {
		l.open[id][s] = true
	}
}

func (l *streams) take(id sandbox.ID) (s *stream, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s, free := range l.open[id] {
		if free {
			l.open[id][s] = false
			return s, true
		}
	}
	return nil, false
}

func (l *streams) drop(id sandbox.ID, s *stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open[id], s)
	if len(l.open[id]) == 0 {
		delete(l.open, id)
	}
}

// close closes a sandbox's streams and waits for their programs to end.
func (l *streams) close(id sandbox.ID) {
	l.mu.Lock()
	var list []*stream
	for s := range l.open[id] {
		list = append(list, s)
	}
	l.mu.Unlock()
	for _, s := range list {
		s.Close()
	}
	for _, s := range list {
		<-s.ended
	}
}

func (l *streams) closeAll() {
	l.mu.Lock()
	var ids []sandbox.ID
	for id := range l.open {
		ids = append(ids, id)
	}
	l.mu.Unlock()
	for _, id := range ids {
		l.close(id)
	}
}
