//go:build linux

package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestAnswersOfHostileKernelsAreBounded checks that the text of an answer stays within its size limit whatever a kernel
// sends, and that dormouse mcp uses little memory for such answers.
func TestAnswersOfHostileKernelsAreBounded(t *testing.T) {
	const budget = 10_000
	needsEngine(t)
	h := newHome(t)
	s := h.connect(t)
	id := s.create(args{"memory_mb": 1024})
	for _, c := range []struct {
		name, code string
		words      []string
	}{
		{"300 tracebacks that code shows", "for i in range(300):\n    try: 1/0\n    except Exception: get_ipython().showtraceback()", []string{"ZeroDivisionError", "more errors"}},
		{"30,000 results", hostileKernel(`ch.send("result", id=ch.id, data={"text/plain": f"value {i} " + "x" * 4000})`), []string{"value 29999 ", "more displays not shown"}},
		{"30,000 errors", hostileKernel(`ch.send("error", id=ch.id, name="E", message=f"message {i}", traceback="frame\n" * 1000 + f"error {i}")`), []string{"error 29999", "more errors"}},
		{"30,000 displays", hostileKernel(`ch.send("display", id=ch.id, data={"image/png": "bm90IGEgcG5n", "text/html": "<b>" + "y" * 3000})`), []string{"more displays not shown"}},
		{"backticks", "print('`' * 9000); display('`' * 2000); '`' * 4000", []string{"x60"}},
		{"files with long names", "import os\nfor i in range(99): open('\u202e' * 80 + str(i), 'w').close()", []string{"more (list them with code)"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := s.with(t)
			r := s.exec(args{"sandbox_id": id, "code": c.code, "wait_seconds": 300}, c.words...)
			if len(r.Text) > budget {
				t.Errorf("the answer has %d bytes, want at most %d", len(r.Text), budget)
			}
			t.Logf("the answer has %d bytes; dormouse mcp has used up to %d MiB of memory", len(r.Text), peakMiB(t, "mcp"))
		})
	}
	const most = 200
	if peak := peakMiB(t, "mcp"); peak > most {
		t.Errorf("dormouse mcp used up to %d MiB of memory, want at most %d", peak, most)
	}
}

func hostileKernel(send string) string {
	return "import sys\nch = sys.stdout._channel\nfor i in range(30000): " + send
}

// peakMiB returns the peak memory, in MiB, of the dormouse process that this test started with the given subcommand.
func peakMiB(t *testing.T, subcommand string) int {
	t.Helper()
	found, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range found {
		line, _ := os.ReadFile(path)
		status, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "status"))
		if !strings.HasPrefix(string(line), binary+"\x00"+subcommand+"\x00") || !strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", os.Getpid())) {
			continue
		}
		_, rest, _ := strings.Cut(string(status), "VmHWM:")
		kib, err := strconv.Atoi(strings.Fields(rest)[0])
		if err != nil {
			t.Fatal(err)
		}
		return kib >> 10
	}
	t.Fatalf("no process of this test runs dormouse %s", subcommand)
	return 0
}
