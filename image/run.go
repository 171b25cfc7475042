package image

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

// buildLog is the file with the output of all programs that build an image.
type buildLog struct {
	*os.File
}

func openLog(path string) (buildLog, error) {
	f, err := os.Create(path)
	return buildLog{f}, err
}

// shownOnFailure is the number of lines at the end of the log that wrapError puts into an error.
const shownOnFailure = 15

// wrapError returns an error that wraps err and contains the last lines and the path of the log.
func (l buildLog) wrapError(what string, err error) error {
	content, _ := os.ReadFile(l.Name())
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	lines = lines[max(0, len(lines)-shownOnFailure):]
	return fmt.Errorf("%s: %w\n  the last lines of %s:\n  | %s", what, err, l.Name(), strings.Join(lines, "\n  | "))
}

// terminationGrace is the time that an interrupted program has to clean up before it is killed.
const terminationGrace = 20 * time.Second

// run runs a program. It writes the program's output to the log and calls onLine, which may be nil, for each line of the
// output. When ctx ends, run sends SIGTERM to the program and its children. After terminationGrace it kills the processes
// that still run. It then returns ctx's error.
func (l buildLog) run(ctx context.Context, env []string, onLine func(string), name string, args ...string) error {
	fmt.Fprintf(l, "+ %s %s\n", name, strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	out := io.MultiWriter(l, &lineWriter{onLine: onLine})
	// Stdout and Stderr are the same writer, so that os/exec calls Write from one goroutine only: lineWriter has no lock.
	cmd.Stdout, cmd.Stderr = out, out
	setProcessGroup(cmd)
	cmd.WaitDelay = terminationGrace
	err := cmd.Run()
	if ctx.Err() != nil {
		killGroup(cmd)
		return ctx.Err()
	}
	return err
}

// colour matches the escape sequences that change a terminal's colour.
var colour = regexp.MustCompile("\x1b\\[[0-9;]*m")

// lineWriter calls onLine, which may be nil, for each complete line, without colour sequences and surrounding spaces.
type lineWriter struct {
	onLine func(string)
	rest   []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	if w.onLine == nil {
		return len(p), nil
	}
	w.rest = append(w.rest, p...)
	for {
		line, rest, found := bytes.Cut(w.rest, []byte("\n"))
		if !found {
			return len(p), nil
		}
		w.onLine(strings.TrimSpace(colour.ReplaceAllString(string(line), "")))
		w.rest = rest
	}
}

// announceStep prints the step that a line of a program's output announces: a "step: " line of our scripts, or a line in
// mmdebstrapSteps. It ignores other lines.
func (r *report) announceStep(line string) {
	if text, ok := strings.CutPrefix(line, "step: "); ok {
		r.beginStep("%s", text)
		return
	}
	if text, ok := mmdebstrapSteps[line]; ok {
		r.beginStep("%s", text)
	}
}
