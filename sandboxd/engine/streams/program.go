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
	// lastWords is how long a program may take to end when its stream is closed, and its
	// stderr to be read when it has ended.
	lastWords = 2 * time.Second
)

// Program is the stdin and stdout of a program: as a [Stream] where it runs `guest connect`, unused where it does not.
type Program struct {
	stdio.Pipes
	cmd    *exec.Cmd
	stderr *Bounded
	ended  chan struct{} // closed when the program has ended and was waited for
	err    error         // how, then

	once sync.Once
}

var (
	_ Stream = (*Program)(nil)
	_ Stream = (*stdio.Stream)(nil)
)

// OpenPipes makes the stdin and stdout of a process, which are closed when it has them, and our ends of them.
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

// Start starts a program, in a session of its own.
func Start(cmd *exec.Cmd) (*Program, error) {
	ours, stdin, stdout, err := OpenPipes()
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	defer stdout.Close()
	p := &Program{Pipes: ours, cmd: cmd, stderr: &Bounded{Max: 8 << 10}, ended: make(chan struct{})}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, p.stderr
	cmd.WaitDelay = lastWords
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
		if said := p.stderr.String(); said != "" {
			err = fmt.Errorf("guest connect: %q: %w", said, io.ErrUnexpectedEOF)
		}
	}
	return n, err
}

// Close ends the stream, and with it the program. It may be called twice.
func (p *Program) Close() error {
	p.once.Do(func() {
		p.In.Close()
		p.Out.Close()
		time.AfterFunc(lastWords, func() {
			select {
			case <-p.ended:
			default:
				p.Kill() // it does not heed the end of its stdin
			}
		})
	})
	return nil
}

// Ended implements [Stream]: the program has ended.
func (p *Program) Ended() <-chan struct{} { return p.ended }

// Wait waits for the program's end, and returns what it said if it failed.
func (p *Program) Wait() error {
	if <-p.ended; p.err != nil {
		return fmt.Errorf("%w: %s", p.err, p.stderr)
	}
	return nil
}

// Kill kills the program.
func (p *Program) Kill() { _ = p.cmd.Process.Kill() }

// Bounded keeps the first Max bytes of what is written to it.
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
