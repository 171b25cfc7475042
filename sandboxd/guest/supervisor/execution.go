//go:build linux

package supervisor

import (
	"context"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/supervisor/journal"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/supervisor/process"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// execution is one run of code: its record, its journal and the request to stop it. The lane that runs it calls begin
// and end. If the execution is interrupted in the queue, the server calls end instead. interrupt, wait, current and window
// may be called concurrently.
type execution struct {
	id      sandbox.ExecutionID
	code    string
	timeout time.Duration
	journal *journal.Journal
	stop    chan struct{} // closed by the first call of interrupt
	ended   chan struct{} // closed when the state is final

	beganTick int64 // when begin was called, in ticks since boot (see process.Now); only the lane uses beganTick

	mu        sync.Mutex
	record    sandbox.Execution // the current record; its events are in the journal
	stopAsked bool
}

func newExecution(id sandbox.ExecutionID, req sandbox.ExecuteRequest, j *journal.Journal) *execution {
	return &execution{
		id:      id,
		code:    req.Code,
		timeout: time.Duration(*req.TimeoutSeconds) * time.Second,
		journal: j,
		stop:    make(chan struct{}),
		ended:   make(chan struct{}),
		record: sandbox.Execution{
			ID:             id,
			Language:       req.Language,
			State:          sandbox.ExecQueued,
			TimeoutSeconds: *req.TimeoutSeconds,
			CreateTime:     time.Now().UTC(),
		},
	}
}

// interrupt asks the lane to stop the execution. It does not wait.
func (e *execution) interrupt() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.stopAsked {
		e.stopAsked = true
		close(e.stop)
	}
}

// begin marks the execution as running in the kernel with this epoch. The parameter since describes what happened
// between the previous execution of the lane and this one.
func (e *execution) begin(epoch int, since *sandbox.Interlude) {
	e.beganTick = process.Now()
	e.mu.Lock()
	e.record.State, e.record.KernelEpoch, e.record.StartTime = sandbox.ExecRunning, epoch, time.Now().UTC()
	e.record.Interlude = since
	e.mu.Unlock()
	e.journal.AddStatus(sandbox.ExecRunning)
}

// setCodeError stores an exception that the code raised, in place of an earlier exception.
func (e *execution) setCodeError(err sandbox.CodeError) {
	e.mu.Lock()
	e.record.Error = &err
	e.mu.Unlock()
	e.journal.AddError()
}

// codeError returns the exception that the code raised last, or nil.
func (e *execution) codeError() *sandbox.CodeError {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.record.Error
}

// outcome is how an execution ended.
type outcome struct {
	state        sandbox.ExecutionState
	reason       string
	stoppedBy    string
	death        *sandbox.KernelDeath
	files        []sandbox.File
	filesOmitted []sandbox.OmittedFile
	interlude    *sandbox.Interlude
}

// end makes the execution final. It must be called once.
func (e *execution) end(o outcome) {
	e.journal.Finish(o.state, o.files)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.record.State, e.record.Reason, e.record.StoppedBy = o.state, o.reason, o.stoppedBy
	e.record.Death, e.record.Files, e.record.FilesOmitted = o.death, o.files, o.filesOmitted
	e.record.Interlude = o.interlude
	e.record.EndTime = time.Now().UTC()
	e.code = ""
	close(e.ended)
}

// final reports whether the execution has ended.
func (e *execution) final() bool {
	select {
	case <-e.ended:
		return true
	default:
		return false
	}
}

// wait waits until the execution is final, d has passed or ctx is done.
func (e *execution) wait(ctx context.Context, d time.Duration) {
	if d <= 0 || e.final() {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-e.ended:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// current returns the current record without events.
func (e *execution) current() sandbox.Execution {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.record
	r.OutputBytes = e.journal.TextBytes()
	return r
}

// window returns the current record with the events that w selects.
func (e *execution) window(w sandbox.Window) (sandbox.Execution, error) {
	r := e.current()
	var err error
	r.Events, r.NextOffset, err = e.journal.Window(w)
	r.OutputGone = e.journal.OutputDeleted()
	return r, err
}
