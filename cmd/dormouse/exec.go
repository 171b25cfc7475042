package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/mattn/go-isatty"

	"github.com/dormouse-sandbox/dormouse/sandboxd/api"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools/render"
)

type execCommand struct {
	Sandbox  string `short:"s" help:"Sandbox to run in, by id or display name. None: a new one, deleted afterwards."`
	Language string `short:"l" help:"python or javascript. Default: by the file's extension, otherwise the sandbox's default."`
	Code     string `short:"e" help:"Code to run."`
	File     string `arg:"" optional:"" help:"File with the code to run; - is standard input."`
	Timeout  int    `default:"600" help:"Seconds after which the code is interrupted."`
	daemonFlags
}

// Help describes the exit statuses, which scripts depend on.
func (execCommand) Help() string {
	return `Exit status: 0 the code succeeded; 1 it failed; 124 it ran out of time; 130 it was
interrupted; 137 its kernel died; 125 Dormouse could not run it; 2 the command line is
wrong. The code's own exit status is never passed on.`
}

// Validate is called by kong before Run.
func (c *execCommand) Validate() error {
	switch {
	case c.File != "" && c.Code != "":
		return errors.New("-e CODE and a FILE were given: give one of them, not both")
	case c.File == "" && c.Code == "":
		return errors.New("there is nothing to run: give -e CODE or a FILE (- is standard input)")
	case c.Timeout < 1 || c.Timeout > sandbox.MaxTimeoutSeconds:
		return fmt.Errorf("--timeout %d is out of range: use 1 to %d", c.Timeout, sandbox.MaxTimeoutSeconds)
	}
	_, err := sandbox.ParseLanguage(c.Language)
	return err
}

// Exit statuses for the outcome of the code. The numbers follow the conventions of timeout(1) and of shells.
const (
	exitFailed      = 1
	exitTimedOut    = 124
	exitInterrupted = 130
	exitKernelDied  = 137
)

var exitStatus = map[sandbox.ExecutionState]exitCode{
	sandbox.ExecFailed:      exitFailed,
	sandbox.ExecTimedOut:    exitTimedOut,
	sandbox.ExecInterrupted: exitInterrupted,
	sandbox.ExecKernelDied:  exitKernelDied,
	sandbox.ExecLost:        exitTrouble,
}

func (c *execCommand) Run(ctx context.Context, k *kong.Context) error {
	req, err := c.request()
	if err != nil {
		return err
	}
	client, err := c.connect(ctx, k)
	if err != nil {
		return err
	}
	name := c.Sandbox
	if name == "" {
		created, err := client.Create(ctx, sandbox.CreateRequest{Language: req.Language})
		if err != nil {
			return err
		}
		name = string(created.ID)
		defer deleteQuietly(client, name)
	}
	exec, err := client.Execute(ctx, name, req)
	if err != nil {
		return err
	}
	out, errOut := newScreen(os.Stdout), newScreen(os.Stderr)
	defer errOut.end()
	defer out.end()
	p := printer{out: out, err: errOut}
	if exec, err = c.follow(ctx, client, exec.ID, p.event); err != nil {
		return err
	}
	return p.finish(exec)
}

func (c *execCommand) request() (sandbox.ExecuteRequest, error) {
	req := sandbox.ExecuteRequest{Code: c.Code, TimeoutSeconds: &c.Timeout}
	lang, err := sandbox.ParseLanguage(c.Language)
	if err != nil {
		return req, err
	}
	req.Language = lang
	if c.File == "" {
		return req, nil
	}
	in := io.Reader(os.Stdin)
	if c.File != "-" {
		f, err := os.Open(c.File)
		if err != nil {
			return req, err
		}
		defer f.Close()
		in = f
	}
	code, err := io.ReadAll(io.LimitReader(in, sandbox.MaxCodeBytes+1))
	if err != nil {
		return req, fmt.Errorf("read %s: %w", c.File, err)
	}
	req.Code = string(code)
	if req.Language == "" {
		switch filepath.Ext(c.File) {
		case ".js", ".mjs", ".cjs":
			req.Language = sandbox.JavaScript
		case ".py", ".ipy":
			req.Language = sandbox.Python
		}
	}
	return req, nil
}

// follow passes each event of the execution to the given function until the execution ends, and returns the final state of
// the execution. The first Ctrl-C interrupts the code. A second Ctrl-C makes follow return an error at once, without waiting
// for the code to end.
func (c *execCommand) follow(ctx context.Context, client *api.Client, id sandbox.ExecutionID, event func(sandbox.Event) error) (sandbox.Execution, error) {
	ctx, stopFollowing := context.WithCancel(ctx)
	defer stopFollowing()
	keys := make(chan os.Signal, 1)
	signal.Notify(keys, os.Interrupt)
	defer signal.Stop(keys)
	go func() {
		select {
		case <-ctx.Done():
			return
		case <-keys:
		}
		fmt.Fprintln(os.Stderr, "\ninterrupting the code (Ctrl-C again to leave it running)")
		go func() {
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			if _, err := client.Interrupt(ctx, string(id)); err != nil && ctx.Err() == nil {
				fmt.Fprintln(os.Stderr, "dormouse:", sentence(err))
			}
		}()
		select {
		case <-ctx.Done():
		case <-keys:
			stopFollowing()
		}
	}()
	if err := client.FollowExecution(ctx, string(id), 1, event); err != nil {
		return sandbox.Execution{}, err
	}
	return client.GetExecution(ctx, string(id), 0, sandbox.Window{Head: 1})
}

// screen writes text from a sandbox. On a terminal it replaces control sequences other than colours by visible text, because
// they could clear the screen or fill the clipboard. A file or a pipe gets all bytes unchanged.
type screen struct {
	w        io.Writer
	terminal bool
	rest     string // the beginning of a colour sequence whose end has not been written yet
	coloured bool   // a colour sequence was written
}

func newScreen(f *os.File) *screen {
	return &screen{w: f, terminal: isatty.IsTerminal(f.Fd()) || isatty.IsCygwinTerminal(f.Fd())}
}

func (s *screen) Write(p []byte) (int, error) {
	if !s.terminal {
		return s.w.Write(p)
	}
	var shown string
	shown, s.rest = render.CleanTerminal(s.rest + string(p))
	s.coloured = s.coloured || strings.Contains(shown, "\x1b")
	if _, err := io.WriteString(s.w, shown); err != nil {
		return 0, err
	}
	return len(p), nil
}

// end must be called after the last Write. It writes an incomplete colour sequence as visible text and resets the
// terminal's colours.
func (s *screen) end() {
	io.WriteString(s.w, strings.ReplaceAll(s.rest, "\x1b", `\x1b`))
	if s.coloured {
		io.WriteString(s.w, "\x1b[0m")
	}
}

// printer prints the events and the result of an execution to the command's stdout (out) and stderr (err).
type printer struct{ out, err io.Writer }

func (p printer) event(e sandbox.Event) error {
	switch e.Type {
	case sandbox.EventStdout:
		io.WriteString(p.out, e.Text)
	case sandbox.EventStderr:
		io.WriteString(p.err, e.Text)
	case sandbox.EventDisplay, sandbox.EventResult:
		if text, ok := e.Data["text/plain"]; ok {
			fmt.Fprintln(p.out, text)
		}
		for mime, value := range e.Data {
			if mime != "text/plain" {
				fmt.Fprintf(p.err, "[%s, %d bytes]\n", mime, len(value))
			}
		}
	case sandbox.EventOmitted:
		fmt.Fprintf(p.err, "\n[%d bytes of output exceeded the limit and were dropped]\n", e.Bytes)
	}
	return nil
}

// finish prints how the execution ended and returns its exit status.
func (p printer) finish(exec sandbox.Execution) error {
	if exec.Error != nil {
		text := exec.Error.Traceback
		if text == "" {
			text = exec.Error.Name + ": " + exec.Error.Message
		}
		fmt.Fprintln(p.err, text)
	}
	if exec.Reason != "" {
		fmt.Fprintln(p.err, "dormouse:", exec.Reason)
	}
	if i := exec.Interlude; i != nil {
		p.interlude(*i)
	}
	if status, ok := exitStatus[exec.State]; ok {
		return status
	}
	return nil
}

// interlude prints what happened to the sandbox between the previous execution and the current one.
func (p printer) interlude(i sandbox.Interlude) {
	if !i.AsOf.IsZero() {
		fmt.Fprintln(p.err, "dormouse: the sandbox went back to its checkpoint of", i.AsOf.Local().Format(time.DateTime)+"; later changes of variables and files are lost")
	}
	if i.Death != nil {
		fmt.Fprintln(p.err, "dormouse: the kernel died before this execution, and its variables are lost:", i.Death.Detail)
	}
	if i.LateBytes > 0 {
		fmt.Fprintf(p.err, "dormouse: %d bytes were printed between the previous execution and this one; their end:\n%s\n", i.LateBytes, strings.TrimSuffix(i.LateText, "\n"))
	}
}

func deleteQuietly(client *api.Client, name string) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := client.Delete(ctx, name); err != nil {
		fmt.Fprintf(os.Stderr, "dormouse: delete %s: %s\n", name, sentence(err))
	}
}
