// Package enginetest is the conformance suite of engines. It tests the contract of [engine.Engine] and the isolation
// of sandboxes. The sandboxes run the suite's own guest (enginetest/probe), which reports how the isolation looks
// from inside. The tests of each engine call [Run]. The manager's fake engine has no containers, so its test calls
// [RunContract].
//
//   - the life cycle of a container: create, dial, list, remove, and their errors (lifecycle.go)
//   - streams to the guest: content, concurrency, end (stream.go)
//   - limits hold, and a neighbour sandbox still answers (limits.go)
//   - suspend, resume and fork, if the engine implements them (suspend.go)
//   - checkpoints of running sandboxes (checkpoint.go), and starting from a snapshot (snapshot.go)
//   - the isolation, compared with golden files, and real programs that must work in spite of the isolation
//     (posture.go)
//   - sandboxes share no files (neighbours.go)
//   - [Slow] skips slow tests (slow.go)
//
// The subpackage guesttest has tests with the real guest, which the tests of each engine call too.
//
// DORMOUSE_UPDATE_GOLDEN=1 rewrites the golden files.
package enginetest

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Open opens the engine under test for a home. The engine puts the given guest into its containers. Open also
// registers a cleanup that closes the engine when the test ends.
type Open func(t *testing.T, home string, guest engine.Bundle) engine.Engine

// Run runs the suite. The engine must have the image, which can be any Linux image.
func Run(t *testing.T, open Open, image string) {
	s := newSuite(t, open, image, Probe(t))
	s.contract(t)
	t.Run("Posture", s.posture)
	t.Run("Neighbours", s.neighbours)
	t.Run("Programs", s.programs)
	t.Run("Limits", s.limits)
}

// RunContract runs the part of the suite that tests the contracts of [engine.Engine] and of the optional interfaces
// that the engine implements. It does not compare the isolation with golden files, and does not test limits or real
// programs. It is for an engine whose sandboxes are not containers, and for a second way to reach an engine that passes
// [Run], such as TCP. The parameter guest is the result of [Probe] or, for an engine that runs no programs, a
// placeholder for a guest that answers the same requests.
func RunContract(t *testing.T, open Open, image string, guest engine.Bundle) {
	newSuite(t, open, image, guest).contract(t)
}

func newSuite(t *testing.T, open Open, image string, guest engine.Bundle) *suite {
	s := &suite{open: open, image: image, guest: guest}
	s.engine = s.openHome(t)
	t.Logf("engine: %+v", s.engine.Info())
	return s
}

func (s *suite) contract(t *testing.T) {
	t.Run("Lifecycle", s.lifecycle)
	t.Run("Stream", s.stream)
	t.Run("Suspend", s.suspend)
	t.Run("Fork", s.fork)
	t.Run("Checkpoint", s.checkpoint)
	t.Run("Snapshot", s.snapshot)
}

type suite struct {
	open   Open
	image  string
	guest  engine.Bundle
	engine engine.Engine
}

// openHome opens the engine for a new home. When the test ends, it checks that the home has no containers left.
func (s *suite) openHome(t *testing.T) engine.Engine {
	t.Helper()
	e := s.open(t, "test-"+string(sandbox.NewID()), s.guest)
	t.Cleanup(func() {
		for _, c := range list(t, e) {
			t.Errorf("%s left a sandbox: %+v", t.Name(), c)
			remove(t, e, c.ID)
		}
	})
	return e
}

var uids atomic.Int64

// spec returns the spec of a small sandbox with a unique id and uid.
func (s *suite) spec() engine.Spec {
	return engine.Spec{
		ID:    sandbox.NewID(),
		Image: s.image,
		Limits: sandbox.Limits{MemoryBytes: 256 * sandbox.MiB, CPUs: 1, Processes: 100,
			WorkspaceBytes: 64 * sandbox.MiB},
		UID:      200_000 + int(uids.Add(1)),
		Expires:  time.Now().Add(time.Hour),
		Language: sandbox.Python,
	}
}

// testSandbox is a running sandbox and a client of its guest.
type testSandbox struct {
	id     sandbox.ID
	client *http.Client
}

// create creates a sandbox, and returns it with a client of its guest. The sandbox is removed when the test ends.
func (s *suite) create(t *testing.T, spec engine.Spec) testSandbox {
	t.Helper()
	if err := s.engine.Create(t.Context(), spec); err != nil {
		t.Fatalf("Create: %v", err)
	}
	t.Cleanup(func() { remove(t, s.engine, spec.ID) })
	return s.dial(t, spec.ID)
}

// dial returns a client of a sandbox's guest. The client does not share its stream with other clients.
func (s *suite) dial(t *testing.T, id sandbox.ID) testSandbox {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{
		Protocols:   protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return s.engine.Dial(ctx, id) },
	}
	t.Cleanup(transport.CloseIdleConnections)
	transportsMu.Lock()
	defer transportsMu.Unlock()
	transports[id] = append(transports[id], transport)
	return testSandbox{id, &http.Client{Transport: transport}}
}

var (
	transportsMu sync.Mutex
	transports   = map[sandbox.ID][]*http.Transport{} // the transports of the clients of each sandbox
)

// disconnect closes the idle connections of all clients of a sandbox. The tests call it after a call that closes the
// sandbox's streams: a client that has not noticed yet would send its next request over a closed stream.
func disconnect(id sandbox.ID) {
	transportsMu.Lock()
	defer transportsMu.Unlock()
	for _, transport := range transports[id] {
		transport.CloseIdleConnections()
	}
}

// request sends a request to the guest and returns the body of the response. A status other than 200 is an error.
func (b testSandbox) request(ctx context.Context, method, path string, body io.Reader) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://guest"+path, body)
	if err != nil {
		return "", err
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	return string(text), err
}

// mustRequest is like request, but an error fails and ends the test. The request is cancelled after two minutes.
func (b testSandbox) mustRequest(t *testing.T, method, path string, body io.Reader) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	text, err := b.request(ctx, method, path, body)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func list(t *testing.T, e engine.Engine) []engine.Container {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	all, err := e.List(ctx)
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	return all
}

// awaitEnd waits until List returns the engine's only sandbox as not running, and returns that sandbox.
func (s *suite) awaitEnd(t *testing.T) (c engine.Container) {
	t.Helper()
	eventually(t, "the sandbox ends", func() bool {
		all := list(t, s.engine)
		if len(all) != 1 {
			t.Fatalf("List() = %+v, want one sandbox", all)
		}
		c = all[0]
		return !c.Running
	})
	return c
}

func remove(t *testing.T, e engine.Engine, id sandbox.ID) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	if err := e.Remove(ctx, id); err != nil {
		t.Errorf("Remove: %v", err)
	}
}

// eventually polls until ok returns true, and fails and ends the test after a minute. what describes the condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen within a minute: %s", what)
		}
	}
}

// wantKind fails the test unless err is an error of the kind want. The parameter what describes the call that returned
// err.
func wantKind(t *testing.T, what string, err error, want sandbox.Kind) {
	t.Helper()
	if got := sandbox.KindOf(err); err == nil || got != want {
		t.Errorf("%s = %v (%s), want an error of kind %s", what, err, got, want)
	}
}

// Probe returns the suite's guest. It builds the guest from the folder probe once for each test process. On a machine
// without Go, set DORMOUSE_TEST_PROBE to the path of a guest that is built already: Probe then uses that.
func Probe(t testing.TB) engine.Bundle {
	t.Helper()
	program, err := probe()
	if err != nil {
		t.Fatal(err)
	}
	return Guest(program)
}

var probe = sync.OnceValues(func() ([]byte, error) {
	if built := os.Getenv("DORMOUSE_TEST_PROBE"); built != "" {
		return os.ReadFile(built)
	}
	dir, err := os.MkdirTemp("", "dormouse-probe-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "probe")
	build := exec.Command("go", "build", "-trimpath", "-o", out, "github.com/dormouse-sandbox/dormouse/sandboxd/engine/enginetest/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if text, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the probe: %w\n%s", err, text)
	}
	return os.ReadFile(out)
})

// Guest returns a bundle whose guest is the given program, on every architecture. The id of the bundle is unique, so
// that tests do not share installed guests.
func Guest(program []byte) engine.Bundle {
	return bundle{
		id:    strings.TrimPrefix(string(sandbox.NewID()), "sbx_")[:12],
		files: fstest.MapFS{"guest": {Data: program, Mode: 0o755}, "folder/file": {Data: []byte("content")}},
	}
}

type bundle struct {
	id    string
	files fs.FS
}

func (b bundle) ID() string                  { return b.id }
func (b bundle) Files(string) (fs.FS, error) { return b.files, nil }
