package tools_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools"
)

// double is a fake daemon in memory. It implements ids, request ids, windows and files like the daemon, but it runs no
// code: Execute looks the code up in scripts and after, to get the execution's result and duration.
type double struct {
	mu         sync.Mutex
	sandboxes  []*sandbox.Sandbox
	creates    map[string]sandbox.ID // the created sandboxes by the request id of their creation
	executions map[sandbox.ExecutionID]*sandbox.Execution
	requests   map[string]sandbox.ExecutionID
	contents   map[string][]byte // the contents of files, by sandbox and path

	scripts map[string]sandbox.Execution // the result of an execution, by its code
	after   map[string]time.Duration     // how long an execution runs, by its code; the default is 120 ms
	ran     []sandbox.ExecuteRequest
	fail    map[string]error // the errors that methods return, by the name of the method
}

var _ tools.Sandboxes = (*double)(nil)

func newDouble() *double {
	return &double{
		creates: map[string]sandbox.ID{}, executions: map[sandbox.ExecutionID]*sandbox.Execution{},
		requests: map[string]sandbox.ExecutionID{}, contents: map[string][]byte{},
		scripts: map[string]sandbox.Execution{}, after: map[string]time.Duration{}, fail: map[string]error{},
	}
}

func letterID(prefix string, n int) string {
	return prefix + "aaaaaaaaaaaaaaaaaaaaaaaaa" + string(rune('a'+n))
}

func (d *double) find(name string) (*sandbox.Sandbox, error) {
	for _, s := range d.sandboxes {
		if string(s.ID) == name || s.DisplayName == name && name != "" {
			if s.State == sandbox.Terminated {
				return nil, sandbox.Errorf(sandbox.Expired, "sandbox %s has ended: %s", s.ID, s.Reason)
			}
			return s, nil
		}
	}
	return nil, sandbox.Errorf(sandbox.NotFound, "there is no sandbox %q", sandbox.Quote(name))
}

func (d *double) Create(_ context.Context, r sandbox.CreateRequest) (sandbox.Sandbox, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.fail["Create"]; err != nil {
		return sandbox.Sandbox{}, err
	}
	var original sandbox.ID
	if r.ForkOf != "" {
		of, err := d.find(r.ForkOf)
		if err != nil {
			return sandbox.Sandbox{}, err
		}
		original = of.ID
	}
	if id, ok := d.creates[r.RequestID]; ok && r.RequestID != "" {
		for _, s := range d.sandboxes {
			if s.ID == id {
				return *s, nil
			}
		}
	}
	if r.TTL == 0 {
		r.TTL = sandbox.Duration(sandbox.DefaultTTL)
	}
	if r.Language == "" {
		r.Language = sandbox.Python
	}
	now := time.Now().UTC()
	s := &sandbox.Sandbox{ID: sandbox.ID(letterID("sbx_", len(d.sandboxes))), DisplayName: r.DisplayName, State: sandbox.Running,
		Language: r.Language, Image: "dormouse/default", Engine: "docker", Runtime: "runc", Limits: sandbox.DefaultLimits(), ForkOf: original,
		CreateTime: now, LastUsed: now, ExpireTime: now.Add(time.Duration(r.TTL))}
	d.sandboxes = append(d.sandboxes, s)
	d.creates[r.RequestID] = s.ID
	return *s, nil
}

func (d *double) Get(_ context.Context, name string) (sandbox.Sandbox, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, err := d.find(name)
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	return *s, d.fail["Get"]
}

func (d *double) List(_ context.Context, r sandbox.ListRequest) (sandbox.Page, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var p sandbox.Page
	for i := len(d.sandboxes) - 1; i >= 0; i-- {
		if s := d.sandboxes[i]; s.State == r.State || r.State == "" && s.State != sandbox.Terminated {
			p.Sandboxes = append(p.Sandboxes, *s)
		}
	}
	if r.PageSize > 0 && len(p.Sandboxes) > r.PageSize {
		p.Sandboxes, p.NextPageToken = p.Sandboxes[:r.PageSize], "token-2"
	}
	return p, d.fail["List"]
}

func (d *double) Update(_ context.Context, name string, r sandbox.UpdateRequest) (sandbox.Sandbox, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, err := d.find(name)
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	if r.TTL != nil {
		s.ExpireTime = time.Now().UTC().Add(time.Duration(*r.TTL))
	}
	if r.DisplayName != nil {
		s.DisplayName = *r.DisplayName
	}
	return *s, nil
}

func (d *double) Delete(_ context.Context, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, err := d.find(name)
	if err == nil {
		s.State, s.Reason = sandbox.Terminated, "it was deleted"
	}
	return err
}

func (d *double) Execute(ctx context.Context, name string, r sandbox.ExecuteRequest) (sandbox.Execution, error) {
	d.mu.Lock()
	if err := d.fail["Execute"]; err != nil {
		d.mu.Unlock()
		return sandbox.Execution{}, err
	}
	s, err := d.find(name)
	if err != nil {
		d.mu.Unlock()
		return sandbox.Execution{}, err
	}
	d.ran = append(d.ran, r)
	ex := d.scripts[r.Code]
	ex.ID = sandbox.ExecutionID(letterID("exec_", len(d.executions)))
	ex.SandboxID, ex.CreateTime, ex.TimeoutSeconds = s.ID, time.Now(), *r.TimeoutSeconds
	if ex.Language = r.Language; ex.Language == "" {
		ex.Language = s.Language
	}
	if ex.State == "" {
		ex.State = sandbox.ExecSucceeded
	}
	if ex.KernelEpoch == 0 && ex.State != sandbox.ExecQueued {
		ex.KernelEpoch = 1
	}
	if ex.State != sandbox.ExecQueued {
		ex.StartTime = time.Now()
	}
	if ex.State.Final() {
		took := d.after[r.Code]
		if took == 0 {
			took = 120 * time.Millisecond
		}
		ex.EndTime = ex.StartTime.Add(took)
	}
	var at int64
	for i := range ex.Events {
		ex.Events[i].Seq, ex.Events[i].Offset = int64(i+1), at
		at += int64(len(ex.Events[i].Text))
		if ex.Events[i].Reason == sandbox.OmittedByLimit {
			at += ex.Events[i].Bytes
		}
	}
	ex.OutputBytes = at
	d.executions[ex.ID] = &ex
	if r.RequestID != "" {
		d.requests[r.RequestID] = ex.ID
	}
	d.mu.Unlock()
	return d.GetExecution(ctx, string(ex.ID), r.WaitSeconds, r.Window)
}

func (d *double) FindExecution(_ context.Context, requestID string) (sandbox.Execution, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.fail["FindExecution"]; err != nil {
		return sandbox.Execution{}, err
	}
	id, ok := d.requests[requestID]
	if !ok {
		return sandbox.Execution{}, sandbox.Errorf(sandbox.NotFound, "no execution has this request_id")
	}
	return *d.executions[id], nil
}

func (d *double) GetExecution(ctx context.Context, id string, wait float64, w sandbox.Window) (sandbox.Execution, error) {
	d.mu.Lock()
	known, ok := d.executions[sandbox.ExecutionID(id)]
	if err := d.fail["GetExecution"]; err != nil {
		ok = false
	}
	if !ok {
		d.mu.Unlock()
		return sandbox.Execution{}, sandbox.Errorf(sandbox.NotFound, "there is no execution %q", sandbox.Quote(id))
	}
	ex := *known
	d.mu.Unlock()
	end := ex.EndTime
	if !ex.State.Final() {
		end = time.Now().Add(time.Hour)
	}
	if left := time.Until(end); left > 0 { // the execution is still running
		deadline := time.Duration(wait * float64(time.Second))
		select {
		case <-time.After(min(left, deadline)):
		case <-ctx.Done():
			return sandbox.Execution{}, ctx.Err()
		}
		if left > deadline {
			ex.EndTime = time.Time{}
			if ex.State.Final() {
				ex.State = sandbox.ExecRunning
			}
		}
	}
	ex.Events, ex.NextOffset = window(ex.Events, ex.OutputBytes, w)
	return ex, nil
}

// window returns the events in the window w, cut like the daemon cuts them, and the offset after them. total is the
// length of all printed text.
func window(events []sandbox.Event, total int64, w sandbox.Window) ([]sandbox.Event, int64) {
	headEnd, tailStart := total, total
	if w.Head > 0 || w.Tail > 0 {
		headEnd = min(w.Offset+int64(w.Head), total)
		tailStart = max(headEnd, total-int64(w.Tail))
	}
	var out []sandbox.Event
	hole := -1
	for _, e := range events {
		if e.Text == "" {
			if e.Offset >= w.Offset {
				out = append(out, e)
			}
			continue
		}
		end := e.Offset + int64(len(e.Text))
		add := func(from, to int64) {
			if from, to = max(from, e.Offset), min(to, end); from < to {
				part := e
				part.Text, part.Offset = e.Text[from-e.Offset:to-e.Offset], from
				out = append(out, part)
			}
		}
		add(w.Offset, headEnd)
		if from, to := max(headEnd, e.Offset), min(tailStart, end); from < to {
			if hole < 0 {
				hole = len(out)
				out = append(out, sandbox.Event{Type: sandbox.EventOmitted, Offset: from, Reason: sandbox.OmittedByWindow})
			}
			out[hole].Bytes += to - from
		}
		add(tailStart, total)
	}
	if w.Tail == 0 && w.Head > 0 {
		return out, headEnd
	}
	return out, total
}

func (d *double) Interrupt(_ context.Context, id string) (sandbox.Execution, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ex, ok := d.executions[sandbox.ExecutionID(id)]
	if !ok {
		return sandbox.Execution{}, sandbox.Errorf(sandbox.NotFound, "there is no execution %q", sandbox.Quote(id))
	}
	if !ex.State.Final() {
		ex.State, ex.StoppedBy, ex.EndTime = sandbox.ExecInterrupted, "SIGINT", time.Now()
	}
	return *ex, nil
}

func (d *double) WriteFile(_ context.Context, name string, path sandbox.Path, body io.Reader) (sandbox.File, error) {
	b, err := io.ReadAll(body)
	d.mu.Lock()
	defer d.mu.Unlock()
	s, findErr := d.find(name)
	switch {
	case findErr != nil:
		return sandbox.File{}, findErr
	case err != nil:
		return sandbox.File{}, fmt.Errorf("PUT http://daemon/files: %w", err)
	case d.fail["WriteFile "+string(path)] != nil:
		return sandbox.File{}, d.fail["WriteFile "+string(path)]
	}
	d.contents[string(s.ID)+"/"+string(path)] = b
	return fileOf(path, b), nil
}

func fileOf(path sandbox.Path, b []byte) sandbox.File {
	sum := sha256.Sum256(b)
	return sandbox.File{Path: string(path), Size: int64(len(b)), SHA256: hex.EncodeToString(sum[:])}
}

func (d *double) ReadFile(_ context.Context, name string, path sandbox.Path, offset, length int64) (io.ReadCloser, sandbox.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, err := d.find(name)
	if err != nil {
		return nil, sandbox.File{}, err
	}
	b, ok := d.contents[string(s.ID)+"/"+string(path)]
	if !ok {
		return nil, sandbox.File{}, sandbox.Errorf(sandbox.NotFound, "there is no file %q in sandbox %s", path, s.ID)
	}
	from := min(offset, int64(len(b)))
	to := min(from+length, int64(len(b)))
	return io.NopCloser(bytes.NewReader(b[from:to])), fileOf(path, b), nil
}
