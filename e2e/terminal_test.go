//go:build linux

package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestExecKeepsControlSequencesFromATerminal checks how exec prints control sequences in the output of code. On a terminal,
// exec must keep colours, and must print sequences that clear the screen, set the title or fill the clipboard as visible
// text. To a pipe, exec must write every byte unchanged.
func TestExecKeepsControlSequencesFromATerminal(t *testing.T) {
	t.Parallel()
	needsEngine(t)
	h := newHome(t)
	id := h.connect(t).create(args{"memory_mb": 512})
	const code = `import sys
sys.stdout.write("\x1b]52;c;cm0gLXJmIC8=\x07clear\x1b[2J\x1b[H title\x1b]0;owned\x07 c1\x9b2J bidi\u202e\n")
sys.stdout.write("\x1b[1;31mred\x1b[0m 50%\r100%\tdone\n")
sys.stdout.flush()
sys.stdout.write("\x1b[3"); sys.stdout.flush(); import time; time.sleep(.2)
sys.stdout.write("2mgreen\n")
sys.stderr.write("err\x1b[2J\n")
raise ValueError("\x1b]52;c;aaaa\x07 in a message")`
	raw, rawErr, _ := h.run("", "exec", "-s", id, "-e", code)
	for _, want := range []string{"\x1b]52;c;cm0gLXJmIC8=\x07clear\x1b[2J\x1b[H title\x1b]0;owned\x07", "\x1b[1;31mred\x1b[0m 50%\r100%\tdone\n", "\x1b[32mgreen\n"} {
		if !strings.Contains(raw, want) {
			t.Errorf("exec wrote %q to a pipe, want it to contain %q", raw, want)
		}
	}
	if !strings.Contains(rawErr, "err\x1b[2J\n") {
		t.Errorf("exec wrote %q to a pipe on stderr, want it to contain err\\x1b[2J", rawErr)
	}

	shown := runInTerminal(t, h, "exec", "-s", id, "-e", code)
	for _, want := range []string{`\x1b]52;c;cm0gLXJmIC8=\x07clear\x1b[2J\x1b[H title\x1b]0;owned\x07 c1\u009b2J bidi\u202e`, "\x1b[1;31mred\x1b[0m 50%\r100%\tdone\r\n", "\x1b[32mgreen\r\n", `err\x1b[2J`, "\x1b[0m"} {
		if !strings.Contains(shown, want) {
			t.Errorf("exec wrote %q to a terminal, want it to contain %q", shown, want)
		}
	}
	for _, bad := range []string{"\x1b]", "\x1b[2J", "\x1b[H", "\x07", "\u009b", "\u202e"} {
		if strings.Contains(shown, bad) {
			t.Errorf("exec wrote %q to a terminal, want it not to contain %q", shown, bad)
		}
	}
}

// runInTerminal runs a dormouse command with a pseudo-terminal as its stdout and stderr, and returns its output.
func runInTerminal(t *testing.T, h *home, arg ...string) string {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, arg...)
	cmd.Env = append(os.Environ(), h.env...)
	cmd.Stdout, cmd.Stderr = slave, slave
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	var shown bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		io.Copy(&shown, master) // returns the error EIO when the last process closes the slave side of the terminal
	}()
	_ = cmd.Wait() // an error is expected, because the code that exec runs fails
	<-read
	return shown.String()
}
