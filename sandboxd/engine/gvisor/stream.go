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
	"github.com/dormouse-sandbox/dormouse/sandboxd/stdio"
)

const (
	pipeBytes = 1 << 20
	// lastWords is how long a program may take to end when its stream is closed, and its
	// stderr to be read when it has ended.
	lastWords = 2 * time.Second
)

// stream is the stdin and stdout of a runsc command: as a net.Conn where it is `guest connect`, unused where it is not.
type stream struct {
	stdio.Pipes
	cmd    *exec.Cmd
	stderr *bounded
	ended  chan struct{} // closed when the command has ended and was waited for
	err    error         // how, then

	once sync.Once
}

// guestStream is a connection to a guest, through a command or not.
type guestStream interface {
	net.Conn
	// Ended is closed when the stream has been closed, and nothing is left of it in the sandbox.
	Ended() <-chan struct{}
}

var (
	_ guestStream = (*stream)(nil)
	_ guestStream = (*stdio.Stream)(nil)
)

// openPipes makes the stdin and stdout of a process, which are closed when it has them, and our ends of them.
func openPipes() (ours stdio.Pipes, stdin, stdout *os.File, err error) {
	stdin, in, err := os.Pipe()
	if err != nil {
		return ours, nil, nil, err
	}
	out, stdout, err := os.Pipe()
	if err != nil {
		stdin.Close()
		in.Close()
		return ours, nil, nil, err
	}
	growPipe(in)
	growPipe(out)
	return stdio.Pipes{In: out, Out: in}, stdin, stdout, nil
}

// startStream starts a command.
func startStream(cmd *exec.Cmd) (*stream, error) {
	ours, stdin, stdout, err := openPipes()
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	defer stdout.Close()
	s := &stream{Pipes: ours, cmd: cmd, stderr: &bounded{max: 8 << 10}, ended: make(chan struct{})}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, s.stderr
	cmd.WaitDelay = lastWords
	if err := cmd.Start(); err != nil {
		ours.In.Close()
		ours.Out.Close()
		return nil, err
	}
	go func() {
		s.err = cmd.Wait()
		close(s.ended)
	}()
	return s, nil
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.Pipes.Read(p)
	if err == io.EOF {
		if said := s.stderr.String(); said != "" {
			err = fmt.Errorf("guest connect: %q: %w", said, io.ErrUnexpectedEOF)
		}
	}
	return n, err
}

// Close ends the stream, and with it the program. It may be called twice.
func (s *stream) Close() error {
	s.once.Do(func() {
		s.In.Close()
		s.Out.Close()
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

// Ended implements [guestStream].
func (s *stream) Ended() <-chan struct{} { return s.ended }

// streams are those that are open: none may be when a sandbox is suspended. One that nobody has is true: it
// showed that the guest can be dialled, and is for who dials first.
type streams struct {
	mu   sync.Mutex
	open map[sandbox.ID]map[guestStream]bool
}

// add counts a stream until it ends.
func (l *streams) add(id sandbox.ID, s guestStream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.open = map[sandbox.ID]map[guestStream]bool{}
	}
	if l.open[id] == nil {
		l.open[id] = map[guestStream]bool{}
	}
	l.open[id][s] = false
	go func() {
		<-s.Ended()
		l.drop(id, s)
	}()
}

// offer leaves a stream to the first who takes it.
func (l *streams) offer(id sandbox.ID, s guestStream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, open := l.open[id][s]; open {
		l.open[id][s] = true
	}
}

func (l *streams) take(id sandbox.ID) (s guestStream, ok bool) {
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

func (l *streams) drop(id sandbox.ID, s guestStream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open[id], s)
	if len(l.open[id]) == 0 {
		delete(l.open, id)
	}
}

// close closes a sandbox's streams and waits for them to end.
func (l *streams) close(id sandbox.ID) {
	l.mu.Lock()
	var list []guestStream
	for s := range l.open[id] {
		list = append(list, s)
	}
	l.mu.Unlock()
	for _, s := range list {
		s.Close()
	}
	for _, s := range list {
		<-s.Ended()
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
