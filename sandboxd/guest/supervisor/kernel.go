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

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/supervisor/process"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// kernel is one interpreter process and its pipes. It runs one execution at a time, which its lane selects.
type kernel struct {
	pid           int             // process id of the kernel, which is also the id of its session and its process group
	ready         chan struct{}   // closed when the kernel sends ready
	warm          chan struct{}   // closed when the kernel sends warm
	renewed       chan string     // receives the text of the kernel's renewed message
	exited        chan struct{}   // closed when the kernel has ended and its output has been read
	done          chan string     // receives the status of the current execution's done message
	dropped       *droppedCounter // counts text that belongs to no execution, and rejected messages
	nextInterlude *interlude      // receives text that belongs to no execution

	requests *os.File      // the guest's end of the kernel's fd 3
	outbox   chan []byte   // lines to write to requests, in order
	messages *pipeReader   // the guest's end of fd 4
	acks     *pipeWriter   // the guest's end of fd 5
	raw      [2]*rawOutput // the guest's ends of fd 1 and 2
	heapFull atomic.Bool   // V8 printed that its heap is full, which it does before it aborts
	refused  atomic.Bool   // C++ or Rust printed that an allocation failed, which they do before they abort
	crash    crashReport   // the report that Python writes while it dies
	oomScore oomScore      // lower while the kernel is idle

	// outOfMemory is set before the watchdog kills the kernel because of memory or files. The function returns the
	// details for the death's reason.
	outOfMemory atomic.Pointer[func() string]

	mu       sync.Mutex
	readyMsg message // the kernel's ready message; Type is empty until it arrives
	current  *execution
	begun    bool               // the kernel has sent begun for the current execution
	status   syscall.WaitStatus // how the kernel ended; valid once exited is closed
}

// droppedCounter counts kernel output that was not added to an execution.
type droppedCounter struct {
	late atomic.Int64 // bytes of text that was printed while no execution ran
	bad  atomic.Int64 // messages that were invalid or belonged to no running execution
}

// startKernel starts the program argv with the file descriptors that docs/kernel-protocol.md defines.
func startKernel(r *process.Reaper, argv, env []string, dropped *droppedCounter, nextInterlude *interlude) (*kernel, error) {
	k := &kernel{
		ready:         make(chan struct{}),
		warm:          make(chan struct{}),
		renewed:       make(chan string, 1),
		exited:        make(chan struct{}),
		done:          make(chan string, 1),
		dropped:       dropped,
		nextInterlude: nextInterlude,
		outbox:        make(chan []byte, 4),
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
	pid, status, err := r.Start(argv, env, ends.child)
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
	go k.writeRequests()
	go k.awaitExit(status, pumped, &ends)
	return k, nil
}

// awaitExit waits until the kernel has ended, reads the rest of its output, and closes exited. It also closes our ends
// of the pipes, so output of subprocesses that still hold the other ends is not read any more.
func (k *kernel) awaitExit(status <-chan syscall.WaitStatus, pumped <-chan struct{}, ends *pipeEnds) {
	s := <-status
	k.messages.finish(time.Now().Add(drainTimeout))
	<-pumped
	k.drainRaw()
	k.print(sandbox.EventStderr, k.crash.report())
	ends.closeOurs()
	k.oomScore.close()
	k.mu.Lock()
	k.status = s
	k.mu.Unlock()
	close(k.exited)
}

// drainTimeout bounds how long a dead kernel's messages are read if another process keeps the pipe open.
const drainTimeout = 100 * time.Millisecond

// pump handles messages until the pipe ends or its read deadline has passed.
func (k *kernel) pump() {
	for {
		lines, bad, err := k.messages.next()
		// Raw output that was printed before these messages is in the pipes by now and must be handled before them.
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
		if k.readyMsg.Type == "" {
			k.readyMsg = m
			close(k.ready)
		}
		return
	case "warm":
		select {
		case <-k.warm:
		default:
			close(k.warm) // only the goroutine of pump closes k.warm
		}
		return
	case "begun":
		k.markBegun(m.ID)
		k.acks.signal() // answers every begun message, even a forged one, because the kernel waits for the answer
		return
	case "renewed":
		select {
		case k.renewed <- m.Text:
		default: // the channel is full: no snapshot is being made, so nothing reads the answers
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
		e.journal.AddText(sandbox.EventStdout, []byte(m.Text))
	case "stderr":
		e.journal.AddText(sandbox.EventStderr, []byte(m.Text))
	case "display":
		e.journal.AddValue(sandbox.EventDisplay, m.Data)
	case "result":
		e.journal.AddValue(sandbox.EventResult, m.Data)
	case "error":
		e.setCodeError(sandbox.CodeError{Name: m.Name, Message: m.Message, Traceback: m.Traceback})
	case "done":
		k.print(sandbox.EventStderr, k.crash.rest())
		for i, raw := range k.raw {
			if rest := raw.rest(); rest != nil {
				e.journal.AddText([]sandbox.EventType{sandbox.EventStdout, sandbox.EventStderr}[i], rest)
			}
		}
		k.release()
		k.done <- m.Status
	}
}

// rawText handles output from fd 1 or 2.
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

// print adds raw output to the running execution. A kernel sends begun and waits for the answer before it runs any
// code of an execution, so raw output that is read before that message belongs to no execution.
func (k *kernel) print(typ sandbox.EventType, p []byte) {
	k.mu.Lock()
	e, begun := k.current, k.begun
	k.mu.Unlock()
	if e == nil || !begun {
		k.printLate(p)
		return
	}
	e.journal.AddText(typ, p)
}

// markBegun marks the current execution as begun if it has this id.
func (k *kernel) markBegun(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current != nil && string(k.current.id) == id && !k.begun {
		k.begun = true
		k.nextInterlude.begun()
	}
}

// printLate counts text that was printed while no execution ran, and stores it for the next execution. Text that was
// printed before the kernel was ready is only counted.
func (k *kernel) printLate(p []byte) {
	k.dropped.late.Add(int64(len(p)))
	select {
	case <-k.ready:
		k.nextInterlude.print(p)
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

// busy reports whether the kernel has an execution.
func (k *kernel) busy() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.current != nil
}

// release detaches the current execution and sets idleScore. Text that arrives afterwards belongs to no execution.
func (k *kernel) release() {
	k.mu.Lock()
	k.current, k.begun = nil, false
	k.mu.Unlock()
	k.oomScore.set(idleScore)
}

// begin makes e the current execution, sets busyScore, and sends e to the kernel.
func (k *kernel) begin(e *execution) {
	k.oomScore.set(busyScore)
	k.mu.Lock()
	k.current, k.begun = e, false
	k.mu.Unlock()
	k.request(map[string]string{"type": "execute", "id": string(e.id), "code": e.code})
}

// renew asks the kernel to get new random state before it runs executions that begin later.
func (k *kernel) renew() {
	// If half of the outbox is full, the kernel is not reading, so the request is dropped. The other half is reserved
	// for executions.
	if len(k.outbox) < cap(k.outbox)/2 {
		k.request(map[string]string{"type": "renew"})
	}
}

// request queues a line for the kernel without blocking, because the kernel may not read it. If the outbox is full,
// the line is dropped.
func (k *kernel) request(fields map[string]string) {
	var line bytes.Buffer
	if err := newEncoder(&line).Encode(fields); err != nil { // a map of strings can always be encoded
		panic(fmt.Sprintf("encode a request to the kernel: %v", err))
	}
	select {
	case k.outbox <- line.Bytes():
	default:
	}
}

// writeRequests writes the queued lines until the kernel is dead. A blocked write also ends then, because awaitExit
// closes the pipe.
func (k *kernel) writeRequests() {
	for {
		select {
		case line := <-k.outbox:
			_, _ = k.requests.Write(line)
		case <-k.exited:
			return
		}
	}
}

// signal sends sig to the kernel and to those of its subprocesses that have not left its process group.
func (k *kernel) signal(sig syscall.Signal) {
	if !k.dead() {
		_ = syscall.Kill(-k.pid, sig)
	}
}

// setOutOfMemory records that the kernel is being killed because of memory or files. The parameter why is a function
// that returns the details; it is called after the kernel's death. Only the first call of setOutOfMemory has an effect.
func (k *kernel) setOutOfMemory(why func() string) { k.outOfMemory.CompareAndSwap(nil, &why) }

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

func (k *kernel) readyMessage() message {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.readyMsg
}
