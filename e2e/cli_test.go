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
	needsEngine(t)
	h := newHome(t)

	t.Run("exec prints what the code prints and exits with what became of it", func(t *testing.T) {
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
			{name: "a file, its language by its name", args: []string{"exec", script}, stdout: "from node\n"},
			{name: "standard input", stdin: "print(1 + 1)", args: []string{"exec", "-"}, stdout: "2\n"},
			{name: "an exception", args: []string{"exec", "-e", "1 / 0"}, stderr: "ZeroDivisionError", status: 1},
			{name: "stderr stays stderr", args: []string{"exec", "-e", "import sys; print('oh', file=sys.stderr)"}, stderr: "oh"},
			{name: "out of time", args: []string{"exec", "--timeout", "1", "-e", "while True: pass"}, status: 124},
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
					t.Errorf("stderr %q has no %q", errout, c.stderr)
				}
			})
		}
	})
	t.Run("exec without a sandbox leaves none behind", func(t *testing.T) {
		if out, _, _ := h.run("", "ls", "--json"); strings.TrimSpace(out) != "[]" {
			t.Errorf("ls --json = %s, want []", out)
		}
	})
	t.Run("ls lists and rm removes", func(t *testing.T) {
		id := h.connect(t).create(args{"display_name": "listed"})
		out, _, _ := h.run("", "ls")
		if !strings.Contains(out, id) || !strings.Contains(out, "listed") {
			t.Errorf("ls shows no %s:\n%s", id, out)
		}
		if out, errout, status := h.run("", "rm", "listed"); status != 0 || !strings.Contains(out, "listed") {
			t.Errorf("rm: %d, %s %s", status, out, errout)
		}
		if _, errout, status := h.run("", "rm", "listed"); status != 1 || errout == "" {
			t.Errorf("a second rm exits with %d and says %q", status, errout)
		}
	})
	t.Run("doctor finds an engine and the image", func(t *testing.T) {
		out, errout, status := h.run("", "doctor")
		if status != 0 {
			t.Errorf("doctor exits with %d:\n%s%s", status, out, errout)
		}
	})
	t.Run("doctor and version speak JSON", func(t *testing.T) {
		for _, command := range []string{"doctor", "version"} {
			if out, _, _ := h.run("", command, "--json"); !json.Valid([]byte(out)) {
				t.Errorf("%s --json prints %q", command, out)
			}
		}
	})
}

// TestCLIWrongUsage checks that dormouse, with a wrong command line, prints one line on stderr and starts nothing. The exit
// status must be 2, which differs from all statuses that exec has for the outcome of code.
func TestCLIWrongUsage(t *testing.T) {
	h := newHome(t)
	for _, c := range []struct {
		name string
		args []string
		says []string
	}{
		{"an unknown flag", []string{"ls", "--nonsense"}, []string{"unknown flag --nonsense", "see dormouse ls --help"}},
		{"a misspelt flag", []string{"exec", "--sandbx", "x", "-e", "1"}, []string{`(did you mean "--sandbox"?)`, "see dormouse exec --help"}},
		{"a misspelt command", []string{"doctr"}, []string{`(did you mean "doctor"?)`, "see dormouse --help"}},
		{"half a command", []string{"image"}, []string{"build", "see dormouse image --help"}},
		{"no argument", []string{"rm"}, []string{"<sandbox>", "see dormouse rm --help"}},
		{"a number that is none", []string{"ls", "--max-sandboxes", "many"}, []string{"--max-sandboxes", "many"}},
		{"a word that is not one of them", []string{"mcp", "--engine", "podman"}, []string{"--engine", "docker", "podman"}},
		{"a ttl that is none", []string{"sandboxd", "--ttl", "tomorrow"}, []string{"--ttl", `"1d12h"`}},
		{"an unknown state", []string{"ls", "--state", "asleep"}, []string{"asleep", "suspended"}},
		{"an address without a port", []string{"serve", "--listen", "localhost"}, []string{"HOST:PORT"}},
		{"one of two flags", []string{"serve", "--tls-cert", "x"}, []string{"--tls-cert and --tls-key"}},
		{"an unknown client", []string{"mcp", "--print-config", "emacs"}, []string{"emacs", "claude-code"}},
		{"two things to run", []string{"exec", "-e", "1", "script.py"}, []string{"not both"}},
		{"nothing to run", []string{"exec"}, []string{"nothing to run"}},
		{"no time to run", []string{"exec", "--timeout", "0", "-e", "1"}, []string{"--timeout 0", "86400"}},
		{"a name that is none", []string{"token", "add", "Bad Name"}, []string{`"Bad Name"`, "lower-case"}},
		{"an unknown language", []string{"exec", "-l", "cobol", "-e", "1"}, []string{"cobol", "python"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, errout, status := h.run("", c.args...)
			if status != 2 || out != "" || strings.Count(errout, "\n") != 1 || !strings.HasPrefix(errout, "dormouse: ") {
				t.Errorf("exit status %d, stdout %q, stderr %q; want 2, nothing, and one line", status, out, errout)
			}
			for _, s := range c.says {
				if !strings.Contains(errout, s) {
					t.Errorf("stderr %q has no %q", errout, s)
				}
			}
		})
	}
	if h.pid() != 0 {
		t.Error("a wrong command line started the daemon")
	}
	if out, _, status := h.run(""); status != 0 || !strings.Contains(out, "Commands:") {
		t.Errorf("dormouse alone exits with %d and prints %q, want the help", status, out)
	}
}
