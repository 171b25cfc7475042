//go:build linux

package supervisor

import (
	"bytes"
	"regexp"
	"strings"
	"sync"
)

// crashReport removes our own stack frames from the report that Python writes to fd 2 when it dies of a signal or a
// fatal error, so that only the user's frames are left. It holds the report back until the kernel is dead. Text that
// only begins like a report is passed on unchanged when a line follows that can't be in a report, or when the
// execution ends.
type crashReport struct {
	mu      sync.Mutex
	held    []byte
	checked int // length of the lines at the beginning of held that are complete and can be in a report
}

// maxReport bounds the text that is held back, in bytes. A report is smaller, because Python writes at most a hundred
// frames.
const maxReport = 64 << 10

var (
	reportBegins = []byte("Fatal Python error: ")
	reportLine   = regexp.MustCompile(`^(Fatal Python error: .*|Python runtime state: .*|.* \(most recent call first\):|  .*|Extension modules: .*|)$`)
	internalLine = regexp.MustCompile(`^(  File "(.*/dormouse_kernel/.*|.*/python/kernel\.py|.*/IPython/.*|.*/decorator(/__init__)?\.py|<frozen (runpy|importlib).*)", line |  Binary file |.* C stack trace |Extension modules: )`)
)

// pass adds p to the text from fd 2, and returns the text that need not be held back.
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

// rest returns the text that is held back, unchanged. It is called when an execution ends while the kernel lives.
func (c *crashReport) rest() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	held := c.held
	c.held, c.checked = nil, 0
	return held
}

// report returns the text that is held back, without our frames. It is called when the kernel is dead.
func (c *crashReport) report() []byte {
	var kept []string
	stack := 0 // index in kept of the first frame of the current stack, which is its innermost frame
	// end removes from the current stack the frames that called the outermost cell: those of our loop and of asyncio.
	end := func() {
		for i := len(kept) - 1; i >= stack; i-- {
			if strings.HasPrefix(kept[i], `  File "<cell `) {
				kept = kept[:i+1]
				return
			}
		}
	}
	for line := range strings.Lines(string(c.rest())) {
		switch {
		case internalLine.MatchString(line), line == "\n" && stack > 0:
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
