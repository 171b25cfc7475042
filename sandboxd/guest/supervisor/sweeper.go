//go:build linux

package supervisor

import (
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// standByAfter is when the first sweeper is started: beside the first kernel it would only be in the way.
const standByAfter = 2 * time.Second

// sweeper ends every process of the kernels' user at once: kill(-1) is atomic, and knows no exceptions. It stands
// by as a process of root's (`guest sweep`) that nobody else can stop, because what spawns without
// end leaves no time to start one: under gVisor a second and more.
type sweeper struct {
	sup *Supervisor

	mu     sync.Mutex // held while it sweeps
	signal *os.File   // a byte written here sets it off; nil: none stands by
	exited <-chan syscall.WaitStatus
}

// standBy sees that one is ready.
func (w *sweeper) standBy() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ready()
}

// ready is standBy with mu held.
func (w *sweeper) ready() {
	if w.signal != nil {
		return
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer null.Close()
	in, signal, err := os.Pipe()
	if err != nil {
		return
	}
	defer in.Close()
	argv := []string{w.sup.program, "sweep", "-uid", strconv.Itoa(w.sup.config.UID)}
	_, exited, err := w.sup.reaper.start(argv, nil, "/", []*os.File{in, null, null}, &syscall.SysProcAttr{Setsid: true})
	if err != nil {
		signal.Close()
		return
	}
	w.signal, w.exited = signal, exited
}

// sweep returns when all are killed, and another one stands by.
func (w *sweeper) sweep() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ready()
	if w.signal == nil {
		return // no process can be started: the next round of whoever asked tries again
	}
	if _, err := w.signal.Write([]byte{1}); err == nil {
		<-w.exited
	}
	w.signal.Close()
	w.signal = nil
	w.ready()
}
