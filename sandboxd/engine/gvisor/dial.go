package gvisor

import (
	"context"
	"fmt"
	"net"
	"os"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Dial implements [engine.Engine]. It waits while the sandbox is being suspended or resumed.
func (e *Engine) Dial(ctx context.Context, id sandbox.ID) (net.Conn, error) {
	release, err := e.locks.take(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", id, err)
	}
	defer release()
	r, err := e.layout.find(id)
	if err != nil {
		return nil, err
	}
	if e.layout.suspended(id) {
		return nil, asleep()
	}
	if _, alive := e.layout.processOfBox(id); !alive {
		if exists(e.layout.kept(id)) {
			return nil, asleep()
		}
		return nil, noSandbox(id)
	}
	if s, ok := e.streams.take(id); ok {
		return s, nil
	}
	s, err := e.connect(ctx, id, r.Build)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", id, err)
	}
	return s, nil
}

// connect runs `guest connect`, which joins its stdin and stdout to the guest, and
// ends when its stdin does.
func (e *Engine) connect(ctx context.Context, id sandbox.ID, build string) (_ *stream, err error) {
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
	cmd := e.command(build, append([]string{"--log=/dev/null", "exec", "--user=0:0", "--cwd=/", e.layout.instanceOf(id).name}, engine.ConnectArgs()...)...)
	s := &stream{in: in, out: out, cmd: cmd, stderr: &bounded{max: 4 << 10}, ended: make(chan struct{})}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirIn, theirOut, s.stderr
	cmd.WaitDelay = lastWords
	if err := cmd.Start(); err != nil {
		in.Close()
		out.Close()
		return nil, err
	}
	e.streams.add(id, s)
	go func() {
		_ = cmd.Wait() // why it ended is on stderr, and told to who reads
		close(s.ended)
		e.streams.drop(id, s)
	}()
	if err := engine.AwaitJoined(ctx, s); err != nil {
		return nil, err
	}
	return s, nil
}
