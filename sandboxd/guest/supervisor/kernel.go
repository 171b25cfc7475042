//go:build linux

package supervisor

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// kernel is one interpreter process and its pipes, from start to death. It runs one
// execution at a time; its lane decides which.
type kernel struct {
	pid     int             // and its session and process group
	ready   chan struct{}   // closed by the ready message
	warm    chan struct{}   // closed by the warm message
	renewed chan string     // the text of a renewed message
	exited  chan struct{}   // closed when wait4 has it
	done    chan string     // status of the current execution's done message
	dropped *droppedCounter // what it sent that nobody wanted
	between *interlude      // takes text that no execution printed

	requests *os.File    // fd 3 of the kernel
	outbox   chan []byte // what is to be written to it, in order
	messages *pipeReader // fd 4
	acks     *pipeWriter // fd 5
	raw      [2]*rawOutput
	heapFull atomic.Bool // V8 printed that its heap is full, as it does before it aborts
	refused  atomic.Bool // C++ or Rust printed that an allocation failed, as they do before they abort
	crash    crashReport // Python's, which it writes as it dies

	// outOfMemory is set before the watchdog kills the kernel for memory. The function returns the details for the death's reason.
	outOfMemory atomic.Pointer[func() string]

	mu      sync.Mutex
	hello   message // the ready message
	current *execution
	begun   bool               // the kernel has begun the current execution
	status  syscall.WaitStatus // once exited is closed
}

// droppedCounter counts what kernels sent and nobody wanted.
type droppedCounter struct {
	late atomic.Int64 // bytes of text with nothing running
	bad  atomic.Int64 // messages that made no sense
}

// startKernel starts the program with the descriptors of docs/kernel-protocol.md.
func startKernel(r *reaper, argv, env []string, dropped *droppedCounter, between *interlude) (*kernel, error) {
	k := &kernel{
		ready:   make(chan struct{}),
		warm:    make(chan struct{}),
		renewed: make(chan string, 1),
		exited:  make(chan struct{}),
		done:    make(chan string, 1),
		dropped: dropped,
		between: between,
		outbox:  make(chan []byte, 4),
	}
	var ends pipeEnds
	defer ends.closeChild()
	null, err := os.OpenFile(os.DevNull, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	ends.child = append(ends.child, null)
	out, errOut := ends.fromChild(), ends.fromChild()
	requests, messages, acks := ends.toChild(), ends.fromChild(), ends.toChild()
	if ends.err != nil {
		ends.closeOurs()
		return nil, fmt.Errorf("make pipes: %w", ends.err)
	}
	pid, status, err := r.start(argv, env, ends.child)
	if err != nil {
		ends.closeOurs()
		return nil, err
	}
	k.pid, k.requests = pid, requests
	k.raw[0] = newRawOutput(out, func(p []byte) { k.rawText(sandbox.EventStdout, p) })
	k.raw[1] = newRawOutput(errOut, func(p []byte) { k.rawText(sandbox.EventStderr, p) })
	k.messages = newPipeReader(messages)
	k.acks = &pipeWriter{file: acks}
	for _, raw := range k.raw {
		go raw.pump()
	}
	pumped := make(chan struct{})
	go func() { k.pump(); close(pumped) }()
	go k.post()
	go k.await(status, pumped, &ends)
	return k, nil
}

// await makes the death known once all that the kernel said is read. What still holds its pipes
// then (a subprocess) is not listened to.
func (k *kernel) await(status <-chan syscall.WaitStatus, pumped <-chan struct{}, ends *pipeEnds) {
	s := <-status
	k.messages.finish(time.Now().Add(lastWords))
	<-pumped
	k.drainRaw()
	k.print(sandbox.EventStderr, k.crash.report())
	ends.closeOurs()
	k.mu.Lock()
	k.status = s
	k.mu.Unlock()
	close(k.exited)
}

// lastWords is how long a dead kernel's messages are read if they do not end.
const lastWords = 100 * time.Millisecond

// pump handles messages until the pipe ends.
func (k *kernel) pump() {
	for {
		lines, bad, err := k.messages.next()
		// All that was printed raw before these messages is in the pipes now: it comes first.
		k.drainRaw()
		k.dropped.bad.Add(int64(bad))
		for _, line := range lines {
			m, err := parseMessage(line)
			if err != nil {
				k.dropped.bad.Add(1)
				continue
			}
			k.handle(m)
		}
		if err != nil {
			return
		}
	}
}

func (k *kernel) drainRaw() {
	for _, raw := range k.raw {
		raw.drain()
	}
}

func (k *kernel) handle(m message) {
	switch m.Type {
	case "sync":
		k.acks.signal()
		return
	case "ready":
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.hello.Type == "" {
			k.hello = m
			close(k.ready)
		}
		return
	case "warm":
		select {
		case <-k.warm:
		default:
			close(k.warm) // by this goroutine alone
		}
		return
	case "begun":
		k.hasBegun(m.ID)
		k.acks.signal() // even for a forged message, because the kernel waits for the answer
		return
	case "renewed":
		select {
		case k.renewed <- m.Text:
		default: // no caller waits for it: no snapshot is being made
		}
		return
	}
	e := k.running(m.ID)
	if e == nil {
		if m.Text != "" {
			k.printLate([]byte(m.Text))
		} else {
			k.dropped.bad.Add(1)
		}
		return
	}
	switch m.Type {
	case "stdout":
		e.journal.text(sandbox.EventStdout, []byte(m.Text))
	case "stderr":
		e.journal.text(sandbox.EventStderr, []byte(m.Text))
	case "display":
		e.journal.value(sandbox.EventDisplay, m.Data)
	case "result":
		e.journal.value(sandbox.EventResult, m.Data)
	case "error":
		e.raised(sandbox.CodeError{Name: m.Name, Message: m.Message, Traceback: m.Traceback})
	case "done":
		k.print(sandbox.EventStderr, k.crash.rest())
		for i, raw := range k.raw {
			if rest := raw.rest(); rest != nil {
				e.journal.text([]sandbox.EventType{sandbox.EventStdout, sandbox.EventStderr}[i], rest)
			}
		}
		k.release()
		k.done <- m.Status
	}
}

// rawText is what came out of fd 1 or 2.
func (k *kernel) rawText(typ sandbox.EventType, p []byte) {
	if typ == sandbox.EventStderr && bytes.Contains(p, []byte("heap out of memory")) {
		k.heapFull.Store(true)
	}
	if typ == sandbox.EventStderr && refusedText.Match(p) {
		k.refused.Store(true)
	}
	if typ == sandbox.EventStderr {
		p = k.crash.pass(p)
	}
	k.print(typ, p)
}

// print adds raw output to the execution that runs. A kernel sends begun and waits for the answer before it runs any code of an
// execution, so raw output that is read before that message belongs to no execution.
func (k *kernel) print(typ sandbox.EventType, p []byte) {
	k.mu.Lock()
	e, begun := k.current, k.begun
	k.mu.Unlock()
	if e == nil || !begun {
		k.printLate(p)
		return
	}
	e.journal.text(typ, p)
}

// hasBegun marks the current execution as begun if it has this id.
func (k *kernel) hasBegun(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current != nil && string(k.current.id) == id && !k.begun {
		k.begun = true
		k.between.begun()
	}
}

// printLate is for text that came while nothing ran. What a kernel prints as it starts is not of interest.
func (k *kernel) printLate(p []byte) {
	k.dropped.late.Add(int64(len(p)))
	select {
	case <-k.ready:
		k.between.print(p)
	default:
	}
}

// running returns the current execution if it has this id.
func (k *kernel) running(id string) *execution {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current == nil || string(k.current.id) != id {
		return nil
	}
	return k.current
}

// busy reports whether it has an execution.
func (k *kernel) busy() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.current != nil
}

// release ends the current execution's hold of the kernel: what comes now is late.
func (k *kernel) release() {
	k.mu.Lock()
	k.current, k.begun = nil, false
	k.mu.Unlock()
}

// begin gives the kernel an execution.
func (k *kernel) begin(e *execution) {
	k.mu.Lock()
	k.current, k.begun = e, false
	k.mu.Unlock()
	k.request(map[string]string{"type": "execute", "id": string(e.id), "code": e.code})
}

// renew has the kernel take new random state before it runs anything that begins from now on.
func (k *kernel) renew() {
	if len(k.outbox) < cap(k.outbox)/2 { // what waits there is not read, and executions come first
		k.request(map[string]string{"type": "renew"})
	}
}

// request sends a kernel a line, which is written beside the caller: nothing says that a kernel reads it. One that
// has so many to read already, because it does not, gets no more.
func (k *kernel) request(fields map[string]string) {
	select {
	case k.outbox <- append(encode(fields), '\n'):
	default:
	}
}

// post writes the requests until the kernel is dead, which also ends a write.
func (k *kernel) post() {
	for {
		select {
		case line := <-k.outbox:
			_, _ = k.requests.Write(line)
		case <-k.exited:
			return
		}
	}
}

// signal reaches the kernel and its subprocesses that did not leave its process group.
func (k *kernel) signal(sig syscall.Signal) {
	if !k.dead() {
		_ = syscall.Kill(-k.pid, sig)
	}
}

// blame records that the kernel is being killed because of memory or files. why returns the details and is called after the death. Only
// the first call has an effect.
func (k *kernel) blame(why func() string) { k.outOfMemory.CompareAndSwap(nil, &why) }

func (k *kernel) dead() bool {
	select {
	case <-k.exited:
		return true
	default:
		return false
	}
}

func (k *kernel) waitStatus() syscall.WaitStatus {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.status
}

func (k *kernel) introduction() message {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.hello
}
