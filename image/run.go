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

// buildLog is the file with all that the programs said that made an image.
type buildLog struct {
	*os.File
}

func openLog(path string) (buildLog, error) {
	f, err := os.Create(path)
	return buildLog{f}, err
}

// shownOnFailure is how many of the log's last lines a failure shows.
const shownOnFailure = 15

// failure is an error with the end of the log, and where all of it is.
func (l buildLog) failure(what string, err error) error {
	content, _ := os.ReadFile(l.Name())
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	lines = lines[max(0, len(lines)-shownOnFailure):]
	return fmt.Errorf("%s: %w\n  the last lines of %s:\n  | %s", what, err, l.Name(), strings.Join(lines, "\n  | "))
}

// graceToEnd is how long a program gets to clean up after an interruption.
const graceToEnd = 20 * time.Second

// run runs a program, with its output to the log and, line by line, to onLine. When ctx
// ends, the program and its children are asked to end, and killed if they do not.
func (l buildLog) run(ctx context.Context, env []string, onLine func(string), name string, args ...string) error {
	fmt.Fprintf(l, "+ %s %s\n", name, strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	out := io.MultiWriter(l, &lineWriter{onLine: onLine})
	cmd.Stdout, cmd.Stderr = out, out // one writer: exec then copies in one goroutine
	ownGroup(cmd)
	cmd.WaitDelay = graceToEnd
	err := cmd.Run()
	if ctx.Err() != nil {
		killGroup(cmd)
		return ctx.Err()
	}
	return err
}

// colour is what a terminal would take as a change of colour.
var colour = regexp.MustCompile("\x1b\\[[0-9;]*m")

// lineWriter calls onLine with each whole line, without colours.
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

// tell shows the steps among a program's lines: those of setup.sh, and mmdebstrap's own.
func (r *report) tell(line string) {
	if text, ok := strings.CutPrefix(line, "step: "); ok {
		r.step("%s", text)
		return
	}
	if text, ok := mmdebstrapSteps[line]; ok {
		r.step("%s", text)
	}
}
