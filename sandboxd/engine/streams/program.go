package streams

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/stdio"
)

const (
	pipeBytes = 1 << 20
	// gracePeriod is how long a program may continue to run after its stream is closed, and how long stderr is still read
	// after the program has ended.
	gracePeriod = 2 * time.Second
)

// Program is a running program whose stdin and stdout form a connection. If the program is `guest connect`, this
// connection is a [Stream] to the guest.
type Program struct {
	stdio.Pipes
	cmd    *exec.Cmd
	stderr *Bounded
	ended  chan struct{} // closed after the program has ended and cmd.Wait has returned
	err    error         // the result of cmd.Wait, valid once ended is closed

	once sync.Once
}

var (
	_ Stream = (*Program)(nil)
	_ Stream = (*stdio.Stream)(nil)
)

// OpenPipes creates two pipes for the stdin and stdout of a new process. ours contains the caller's ends. stdin and
// stdout are the new process's ends, which the caller closes after it has started the new process.
func OpenPipes() (ours stdio.Pipes, stdin, stdout *os.File, err error) {
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

// Start starts a program in its own session, and sets the stdin, stdout and stderr of cmd. The caller must close the
// result.
func Start(cmd *exec.Cmd) (*Program, error) {
	ours, stdin, stdout, err := OpenPipes()
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	defer stdout.Close()
	p := &Program{Pipes: ours, cmd: cmd, stderr: &Bounded{Max: 8 << 10}, ended: make(chan struct{})}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, p.stderr
	cmd.WaitDelay = gracePeriod
	detach(cmd)
	if err := cmd.Start(); err != nil {
		ours.In.Close()
		ours.Out.Close()
		return nil, err
	}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

func (p *Program) Read(b []byte) (int, error) {
	n, err := p.Pipes.Read(b)
	if err == io.EOF {
		if stderrText := p.stderr.String(); stderrText != "" {
			err = fmt.Errorf("guest connect: %q: %w", stderrText, io.ErrUnexpectedEOF)
		}
	}
	return n, err
}

// Close closes the program's stdin and stdout, which makes the program end. Close does not wait until the program has
// ended. A program that still runs after gracePeriod is killed. Further calls do nothing.
func (p *Program) Close() error {
	p.once.Do(func() {
		p.In.Close()
		p.Out.Close()
		time.AfterFunc(gracePeriod, func() {
			select {
			case <-p.ended:
			default:
				p.Kill() // the program did not end when its stdin was closed
			}
		})
	})
	return nil
}

// Ended implements [Stream]. The channel is closed when the program has ended.
func (p *Program) Ended() <-chan struct{} { return p.ended }

// Wait waits until the program has ended. If the program failed, the error contains the program's stderr.
func (p *Program) Wait() error {
	if <-p.ended; p.err != nil {
		return fmt.Errorf("%w: %s", p.err, p.stderr)
	}
	return nil
}

// Kill kills the program.
func (p *Program) Kill() { _ = p.cmd.Process.Kill() }

// Bounded is a buffer that stores the first Max bytes written to it and discards the rest. It is safe for concurrent
// use.
type Bounded struct {
	Max  int
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *Bounded) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text.Write(p[:min(len(p), b.Max-b.text.Len())])
	return len(p), nil
}

func (b *Bounded) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.TrimSpace(b.text.String())
}
