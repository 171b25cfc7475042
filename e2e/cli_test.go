//go:build unix

package e2e_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCommandLine tests the parts of the command line that users and scripts depend on.
func TestCommandLine(t *testing.T) {
	t.Parallel()
	needsEngine(t)
	h := newHome(t)

	t.Run("exec prints the output of the code, and its exit status is the outcome", func(t *testing.T) {
		script := filepath.Join(t.TempDir(), "hello.js")
		if err := os.WriteFile(script, []byte("console.log('from', process.release.name)"), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			name, stdin string
			args        []string
			stdout      string
			stderr      string
			status      int
		}{
			{name: "success", args: []string{"exec", "-e", "print('hello'); 6 * 7"}, stdout: "hello\n42\n"},
			{name: "JavaScript", args: []string{"exec", "-l", "javascript", "-e", "[1, 2].map(x => x * 2)"}, stdout: "[ 2, 4 ]\n"},
			{name: "a file whose extension selects the language", args: []string{"exec", script}, stdout: "from node\n"},
			{name: "standard input", stdin: "print(1 + 1)", args: []string{"exec", "-"}, stdout: "2\n"},
			{name: "an exception", args: []string{"exec", "-e", "1 / 0"}, stderr: "ZeroDivisionError", status: 1},
			{name: "the code's stderr goes to exec's stderr", args: []string{"exec", "-e", "import sys; print('oh', file=sys.stderr)"}, stderr: "oh"},
			{name: "a timeout", args: []string{"exec", "--timeout", "1", "-e", "while True: pass"}, status: 124},
			{name: "the kernel died", args: []string{"exec", "-e", "import os; os._exit(9)"}, stderr: "9", status: 137},
			{name: "an unknown sandbox", args: []string{"exec", "-s", "nobody", "-e", "1"}, stderr: "nobody", status: 125},
		} {
			t.Run(c.name, func(t *testing.T) {
				out, errout, status := h.run(c.stdin, c.args...)
				if status != c.status {
					t.Errorf("exit status %d, want %d; stderr: %s", status, c.status, errout)
				}
				if c.stdout != "" && out != c.stdout {
					t.Errorf("stdout %q, want %q", out, c.stdout)
				}
				if !strings.Contains(errout, c.stderr) {
					t.Errorf("stderr %q does not contain %q", errout, c.stderr)
				}
			})
		}
	})
	t.Run("exec without -s deletes the sandbox that it created", func(t *testing.T) {
		if out, _, _ := h.run("", "ls", "--json"); strings.TrimSpace(out) != "[]" {
			t.Errorf("ls --json = %s, want []", out)
		}
	})
	t.Run("ls lists a sandbox and rm deletes it", func(t *testing.T) {
		id := h.connect(t).create(args{"display_name": "listed"})
		out, _, _ := h.run("", "ls")
		if !strings.Contains(out, id) || !strings.Contains(out, "listed") {
			t.Errorf("ls does not list %s with its display name:\n%s", id, out)
		}
		if out, errout, status := h.run("", "rm", "listed"); status != 0 || !strings.Contains(out, "listed") {
			t.Errorf("rm listed: exit status %d, stdout %q, stderr %q; want 0 and the name", status, out, errout)
		}
		if _, errout, status := h.run("", "rm", "listed"); status != 1 || errout == "" {
			t.Errorf("rm of a deleted sandbox: exit status %d, stderr %q; want 1 and an error", status, errout)
		}
	})
	t.Run("doctor finds an engine and the image", func(t *testing.T) {
		out, errout, status := h.run("", "doctor")
		if status != 0 {
			t.Errorf("doctor: exit status %d, want 0:\n%s%s", status, out, errout)
		}
	})
	t.Run("doctor and version print JSON with --json", func(t *testing.T) {
		for _, command := range []string{"doctor", "version"} {
			if out, _, _ := h.run("", command, "--json"); !json.Valid([]byte(out)) {
				t.Errorf("%s --json prints %q, which is not JSON", command, out)
			}
		}
	})
}

// TestCLIWrongUsage checks that dormouse, with a wrong command line, prints one line on stderr and starts nothing. The exit
// status must be 2, which differs from all statuses that exec has for the outcome of code.
func TestCLIWrongUsage(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	for _, c := range []struct {
		name string
		args []string
		says []string
	}{
		{"an unknown flag", []string{"ls", "--nonsense"}, []string{"unknown flag --nonsense", "see dormouse ls --help"}},
		{"a misspelt flag", []string{"exec", "--sandbx", "x", "-e", "1"}, []string{`(did you mean "--sandbox"?)`, "see dormouse exec --help"}},
		{"a misspelt command", []string{"doctr"}, []string{`(did you mean "doctor"?)`, "see dormouse --help"}},
		{"a group of commands without a command", []string{"image"}, []string{"build", "see dormouse image --help"}},
		{"a missing argument", []string{"rm"}, []string{"<sandbox>", "see dormouse rm --help"}},
		{"a value that is not a number", []string{"ls", "--max-sandboxes", "many"}, []string{"--max-sandboxes", "many"}},
		{"a value that is not in the list of values", []string{"mcp", "--engine", "podman"}, []string{"--engine", "docker", "podman"}},
		{"a value that is not a duration", []string{"sandboxd", "--ttl", "tomorrow"}, []string{"--ttl", `"1d12h"`}},
		{"an unknown state", []string{"ls", "--state", "asleep"}, []string{"asleep", "suspended"}},
		{"an address without a port", []string{"serve", "--listen", "localhost"}, []string{"HOST:PORT"}},
		{"--tls-cert without --tls-key", []string{"serve", "--tls-cert", "x"}, []string{"--tls-cert and --tls-key"}},
		{"an unknown client", []string{"mcp", "--print-config", "emacs"}, []string{"emacs", "claude-code"}},
		{"-e together with a file", []string{"exec", "-e", "1", "script.py"}, []string{"not both"}},
		{"neither -e nor a file", []string{"exec"}, []string{"nothing to run"}},
		{"a timeout of 0", []string{"exec", "--timeout", "0", "-e", "1"}, []string{"--timeout 0", "86400"}},
		{"an invalid token name", []string{"token", "add", "Bad Name"}, []string{`"Bad Name"`, "lower-case"}},
		{"an unknown language", []string{"exec", "-l", "cobol", "-e", "1"}, []string{"cobol", "python"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, errout, status := h.run("", c.args...)
			if status != 2 || out != "" || strings.Count(errout, "\n") != 1 || !strings.HasPrefix(errout, "dormouse: ") {
				t.Errorf("exit status %d, stdout %q, stderr %q; want 2, an empty stdout and one line on stderr", status, out, errout)
			}
			for _, s := range c.says {
				if !strings.Contains(errout, s) {
					t.Errorf("stderr %q does not contain %q", errout, s)
				}
			}
		})
	}
	if h.pid() != 0 {
		t.Error("a wrong command line started the daemon")
	}
	if out, _, status := h.run(""); status != 0 || !strings.Contains(out, "Commands:") {
		t.Errorf("dormouse without arguments: exit status %d, stdout %q; want 0 and the help", status, out)
	}
}
