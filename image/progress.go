package image

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// report prints the progress of a build for the user, one line for each step. While a step runs for long, report repeats
// its line with the time since the build began, to show that the build does not hang. Its methods are safe for
// concurrent use.
type report struct {
	mu          sync.Mutex
	out         io.Writer
	began       time.Time
	current     string
	repeatTimer *time.Timer // fires when the duration repeatAfter has passed since the last line about a step
	stop        func()
}

// repeatAfter is the interval at which the line of a running step is repeated.
const repeatAfter = 30 * time.Second

func newReport(out io.Writer) *report {
	r := &report{out: out, began: time.Now(), repeatTimer: time.NewTimer(repeatAfter)}
	done := make(chan struct{})
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for {
			select {
			case <-r.repeatTimer.C:
				r.repeatStep()
			case <-done:
				return
			}
		}
	}()
	r.stop = sync.OnceFunc(func() {
		r.repeatTimer.Stop()
		close(done)
		<-finished
	})
	return r
}

// printLine prints a line that does not announce a step.
func (r *report) printLine(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.out, "image: "+format+"\n", args...)
}

// beginStep prints a line at the beginning of a step that may take long.
func (r *report) beginStep(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current = fmt.Sprintf(format, args...)
	r.repeatTimer.Reset(repeatAfter)
	fmt.Fprintf(r.out, "image: %6s  %s\n", seconds(time.Since(r.began)), r.current)
}

func (r *report) repeatStep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.repeatTimer.Reset(repeatAfter)
	if r.current != "" {
		fmt.Fprintf(r.out, "image: %6s  … still %s\n", seconds(time.Since(r.began)), r.current)
	}
}

func (r *report) close() { r.stop() }

func seconds(d time.Duration) string {
	return fmt.Sprintf("%.0f s", d.Seconds())
}

func megabytes(n int64) string { return fmt.Sprintf("%d MB", n/1_000_000) }

func list(names []string) string { return strings.Join(names, ", ") }
