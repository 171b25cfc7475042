package api_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// memory is a small but working implementation of api.Sandboxes. It keeps sandboxes and executions in memory and files on
// disk. Executions run until they are done or interrupted.
//
// Its language has two statements: "echo TEXT" prints, "sleep" waits for an interrupt.
type memory struct {
	dir string

	mu         sync.Mutex
	sandboxes  []*sandbox.Sandbox
	executions map[sandbox.ExecutionID]*fakeExecution
	requests   map[string]sandbox.ExecutionID
	notReady   error
	calls      []string // the paths of all calls of WriteFile
}

type fakeExecution struct {
	x       sandbox.Execution
	events  []sandbox.Event
	changed chan struct{} // closed and replaced at each change
}

func newMemory(t testing.TB) *memory {
	return &memory{dir: t.TempDir(), executions: map[sandbox.ExecutionID]*fakeExecution{}, requests: map[string]sandbox.ExecutionID{}}
}

func (m *memory) find(name string) (*sandbox.Sandbox, error) {
	var found []*sandbox.Sandbox
	for _, s := range m.sandboxes {
		if string(s.ID) == name || (name != "" && s.DisplayName == name) {
			found = append(found, s)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, sandbox.Errorf(sandbox.NotFound, "there is no sandbox %q", sandbox.Quote(name))
	}
	return nil, sandbox.Errorf(sandbox.Invalid, "%d sandboxes are called %q: use an id", len(found), sandbox.Quote(name))
}

func (m *memory) Create(_ context.Context, r sandbox.CreateRequest) (sandbox.Sandbox, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ttl := time.Duration(r.TTL)
	if ttl == 0 {
		ttl = sandbox.DefaultTTL
	}
	now := time.Now().UTC().Truncate(time.Second)
	s := &sandbox.Sandbox{ID: sandbox.NewID(), DisplayName: r.DisplayName, State: sandbox.Running, Language: sandbox.Python,
		Image: "test", Engine: "memory", Runtime: "none", Limits: sandbox.DefaultLimits(), CreateTime: now, ExpireTime: now.Add(ttl), LastUsed: now}
	m.sandboxes = append([]*sandbox.Sandbox{s}, m.sandboxes...)
	return *s, os.Mkdir(filepath.Join(m.dir, string(s.ID)), 0o700)
}

func (m *memory) Get(_ context.Context, name string) (sandbox.Sandbox, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.find(name)
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	return *s, nil
}

func (m *memory) List(_ context.Context, r sandbox.ListRequest) (p sandbox.Page, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	from := 0
	if r.PageToken != "" {
		if from, err = strconv.Atoi(r.PageToken); err != nil {
			return p, sandbox.Errorf(sandbox.Invalid, "page_token is none of ours")
		}
	}
	size := r.PageSize
	if size == 0 {
		size = sandbox.DefaultPageSize
	}
	for i, s := range m.sandboxes[from:] {
		if len(p.Sandboxes) == size {
			p.NextPageToken = strconv.Itoa(from + i)
			break
		}
		if r.State == "" || s.State == r.State {
			p.Sandboxes = append(p.Sandboxes, *s)
		}
	}
	return p, nil
}

func (m *memory) Update(_ context.Context, name string, r sandbox.UpdateRequest) (sandbox.Sandbox, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.find(name)
	if err != nil {
		return sandbox.Sandbox{}, err
	}
	if r.DisplayName != nil {
		s.DisplayName = *r.DisplayName
	}
	if r.TTL != nil {
		s.ExpireTime = time.Now().UTC().Truncate(time.Second).Add(time.Duration(*r.TTL))
	}
	return *s, nil
}

func (m *memory) Delete(_ context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.find(name)
	if err != nil {
		return err
	}
	for i := range m.sandboxes {
		if m.sandboxes[i] == s {
			m.sandboxes = append(m.sandboxes[:i], m.sandboxes[i+1:]...)
			break
		}
	}
	return os.RemoveAll(filepath.Join(m.dir, string(s.ID)))
}

func (m *memory) Execute(ctx context.Context, name string, r sandbox.ExecuteRequest) (sandbox.Execution, error) {
	m.mu.Lock()
	s, err := m.find(name)
	if err != nil {
		m.mu.Unlock()
		return sandbox.Execution{}, err
	}
	id, again := m.requests[r.RequestID]
	if !again {
		id = sandbox.NewExecutionID()
		x := &fakeExecution{changed: make(chan struct{}), x: sandbox.Execution{ID: id, SandboxID: s.ID, Language: s.Language, State: sandbox.ExecRunning, KernelEpoch: 1,
			TimeoutSeconds: *r.TimeoutSeconds, CreateTime: time.Now().UTC()}}
		m.executions[id] = x
		if r.RequestID != "" {
			m.requests[r.RequestID] = id
		}
		if text, ok := strings.CutPrefix(r.Code, "echo "); ok {
			x.add(sandbox.Event{Type: sandbox.EventStdout, Text: text})
			x.finish(sandbox.ExecSucceeded)
		}
	}
	m.mu.Unlock()
	return m.GetExecution(ctx, string(id), r.WaitSeconds, r.Window)
}

// add appends an event. The caller of add and finish must hold memory.mu.
func (x *fakeExecution) add(e sandbox.Event) {
	e.Seq = int64(len(x.events) + 1)
	e.Offset = x.x.OutputBytes
	x.x.OutputBytes += int64(len(e.Text))
	x.events = append(x.events, e)
	close(x.changed)
	x.changed = make(chan struct{})
}

func (x *fakeExecution) finish(s sandbox.ExecutionState) {
	x.x.State = s
	x.add(sandbox.Event{Type: sandbox.EventStatus, State: s})
}

func (m *memory) lookUp(id string) (*fakeExecution, error) {
	if x, ok := m.executions[sandbox.ExecutionID(id)]; ok {
		return x, nil
	}
	return nil, sandbox.Errorf(sandbox.NotFound, "there is no execution %q", sandbox.Quote(id))
}

func (m *memory) FindExecution(ctx context.Context, requestID string) (sandbox.Execution, error) {
	m.mu.Lock()
	id := m.requests[requestID]
	m.mu.Unlock()
	return m.GetExecution(ctx, string(id), 0, sandbox.Window{})
}

func (m *memory) GetExecution(ctx context.Context, id string, wait float64, w sandbox.Window) (sandbox.Execution, error) {
	detached := time.After(time.Duration(wait * float64(time.Second)))
	for {
		m.mu.Lock()
		x, err := m.lookUp(id)
		if err != nil {
			m.mu.Unlock()
			return sandbox.Execution{}, err
		}
		got, changed := x.x, x.changed
		for _, e := range x.events {
			if e.Offset >= w.Offset {
				got.Events = append(got.Events, e)
			}
		}
		got.NextOffset = got.OutputBytes
		m.mu.Unlock()
		if got.State.Final() || wait == 0 {
			return got, nil
		}
		select {
		case <-changed:
		case <-detached:
			wait = 0
		case <-ctx.Done():
			return sandbox.Execution{}, ctx.Err()
		}
	}
}

func (m *memory) FollowExecution(ctx context.Context, id string, from int64, fn func(sandbox.Event) error) error {
	for next := int(from) - 1; ; {
		m.mu.Lock()
		x, err := m.lookUp(id)
		if err != nil {
			m.mu.Unlock()
			return err
		}
		events, final, changed := x.events, x.x.State.Final(), x.changed
		m.mu.Unlock()
		for ; next < len(events); next++ {
			if err := fn(events[next]); err != nil {
				return err
			}
		}
		if final {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *memory) Interrupt(_ context.Context, id string) (sandbox.Execution, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	x, err := m.lookUp(id)
	if err != nil {
		return sandbox.Execution{}, err
	}
	if !x.x.State.Final() {
		x.x.StoppedBy = "SIGINT"
		x.finish(sandbox.ExecInterrupted)
	}
	return x.x, nil
}

func (m *memory) root(name string) (*os.Root, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.find(name)
	if err != nil {
		return nil, err
	}
	return os.OpenRoot(filepath.Join(m.dir, string(s.ID)))
}

func (m *memory) ListFiles(_ context.Context, name string) (files []sandbox.File, omitted []sandbox.OmittedFile, err error) {
	root, err := m.root(name)
	if err != nil {
		return nil, nil, err
	}
	defer root.Close()
	err = filepath.WalkDir(root.Name(), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(root.Name(), path)
		info, err := d.Info()
		files = append(files, sandbox.File{Path: filepath.ToSlash(rel), Size: info.Size()})
		return err
	})
	return files, []sandbox.OmittedFile{{Path: "pipe", Reason: "not a regular file"}}, err
}

func (m *memory) WriteFile(_ context.Context, name string, path sandbox.Path, body io.Reader) (f sandbox.File, err error) {
	root, err := m.root(name)
	if err != nil {
		return f, err
	}
	defer root.Close()
	m.mu.Lock()
	m.calls = append(m.calls, string(path))
	m.mu.Unlock()
	if err := root.MkdirAll(filepath.Dir(string(path)), 0o700); err != nil {
		return f, err
	}
	out, err := root.Create(string(path))
	if err != nil {
		return f, err
	}
	defer out.Close()
	hash := sha256.New()
	n, err := io.CopyBuffer(io.MultiWriter(struct{ io.Writer }{out}, hash), struct{ io.Reader }{body}, make([]byte, 256<<10))
	if err != nil {
		return f, fmt.Errorf("write %s: %w", path, err)
	}
	return sandbox.File{Path: string(path), Size: n, SHA256: hex.EncodeToString(hash.Sum(nil))}, nil
}

func (m *memory) ReadFile(_ context.Context, name string, path sandbox.Path, offset, length int64) (io.ReadCloser, sandbox.File, error) {
	root, err := m.root(name)
	if err != nil {
		return nil, sandbox.File{}, err
	}
	defer root.Close()
	in, err := root.Open(string(path))
	if err != nil {
		return nil, sandbox.File{}, sandbox.Errorf(sandbox.NotFound, "there is no file %q", sandbox.Quote(string(path)))
	}
	info, err := in.Stat()
	if err != nil {
		return nil, sandbox.File{}, err
	}
	if length < 0 {
		length = info.Size()
	}
	body := struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(in, offset, length), in}
	return body, sandbox.File{Path: string(path), Size: info.Size()}, nil
}

func (m *memory) Ready(context.Context) error { return m.notReady }
