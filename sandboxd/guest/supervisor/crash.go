//go:build linux

package supervisor

import (
	"bytes"
	"regexp"
	"strings"
	"sync"
)

// crashReport takes our own frames out of what Python writes raw to fd 2 when it dies of a signal or
// of an error of its own, so that the user's are left. It holds such a report back until the kernel is dead. What only begins
// like one is passed on as it is with the first line that has no place in a report, or at the end of the execution.
type crashReport struct {
	mu      sync.Mutex
	held    []byte
	checked int // of held: whole lines that have a place in a report
}

// maxReport is how much is held back: a hundred frames, which is all that Python writes.
const maxReport = 64 << 10

var (
	reportBegins = []byte("Fatal Python error: ")
	reportLine   = regexp.MustCompile(`^(Fatal Python error: .*|Python runtime state: .*|.* \(most recent call first\):|  .*|Extension modules: .*|)$`)
	notTheUsers  = regexp.MustCompile(`^(  File "(.*/dormouse_kernel/.*|.*/python/kernel\.py|.*/IPython/.*|.*/decorator(/__init__)?\.py|<frozen (runpy|importlib).*)", line |  Binary file |.* C stack trace |Extension modules: )`)
)

// pass returns what of p need not wait.
func (c *crashReport) pass(p []byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	var before []byte
	if c.held == nil {
		i := bytes.Index(p, reportBegins)
		if i < 0 || i > 0 && p[i-1] != '\n' {
			return p
		}
		before, p = p[:i:i], p[i:]
	}
	c.held = append(c.held, p...)
	for {
		line, _, whole := bytes.Cut(c.held[c.checked:], []byte("\n"))
		if whole && !reportLine.Match(line) || len(c.held) > maxReport {
			before = append(before, c.held...)
			c.held, c.checked = nil, 0
			return before
		}
		if !whole {
			return before
		}
		c.checked += len(line) + 1
	}
}

// rest returns what is held back, as it is: the kernel lives.
func (c *crashReport) rest() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	held := c.held
	c.held, c.checked = nil, 0
	return held
}

// report returns what is held back without our frames: the kernel is dead.
func (c *crashReport) report() []byte {
	var kept []string
	stack := 0      // where its frames begin, the innermost first
	end := func() { // what stands outside of the outermost cell has called it: our loop, asyncio's
		for i := len(kept) - 1; i >= stack; i-- {
			if strings.HasPrefix(kept[i], `  File "<cell `) {
				kept = kept[:i+1]
				return
			}
		}
	}
	for line := range strings.Lines(string(c.rest())) {
		switch {
		case notTheUsers.MatchString(line), line == "\n" && stack > 0:
			continue
		case strings.HasSuffix(line, " (most recent call first):\n"):
			end()
			stack = len(kept) + 1
		}
		kept = append(kept, line)
	}
	end()
	return []byte(strings.Join(kept, ""))
}
