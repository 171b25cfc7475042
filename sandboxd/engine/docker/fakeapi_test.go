package docker

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/docker/docker/client"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/stdio"
)

// fakeAPI is a Docker API with one container, for tests in which calls of the engine fail. Its guest answers unless the
// container is frozen or does not run. mu guards all fields below it.
type fakeAPI struct {
	id sandbox.ID // the sandbox of the container

	mu          sync.Mutex
	name        string // the container's name
	running     bool
	paused      bool
	frozen      bool // the container's processes do not run, even if paused is false
	checkpoints []string
	fail        map[string]bool // the calls that fail without an effect, such as "kill" or "GET checkpoints"
	loseAnswer  map[string]bool // the calls that fail although they have had their effect
}

const fakeContainer = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// openFakeAPI returns a fake Docker API whose container runs, and an engine that uses this API and suspends to disk.
func openFakeAPI(t *testing.T) (*fakeAPI, *Engine) {
	t.Helper()
	id := sandbox.NewID()
	f := &fakeAPI{id: id, name: nameOf(id), running: true, fail: map[string]bool{}, loseAnswer: map[string]bool{}}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	api, err := client.NewClientWithOpts(client.WithHost("tcp://"+server.Listener.Addr().String()), client.WithVersion("1.41"))
	if err != nil {
		t.Fatal(err)
	}
	e := &Engine{api: api, home: "test", info: engine.Info{Suspend: engine.ToDisk}}
	t.Cleanup(func() { e.Close() })
	return f, e
}

// set calls fn with the lock held.
func (f *fakeAPI) set(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn()
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.Split(strings.Trim(r.URL.Path, "/"), "/")[1:] // without the version of the API
	call := path[len(path)-1]
	if call == "wait" {
		// A real engine answers when the container ends. In these tests a running container never ends during a wait,
		// so this call waits until the client gives up.
		f.mu.Lock()
		running := f.running
		f.mu.Unlock()
		if running {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return
		}
		answerJSON(w, http.StatusOK, map[string]int{"StatusCode": 137})
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail[r.Method+" "+call] || f.fail[call] {
		answerJSON(w, http.StatusInternalServerError, map[string]string{"message": "the fake API fails"})
		return
	}
	labels := map[string]string{labelHome: "test", labelSandbox: string(f.id)}
	state := map[string]any{"Running": f.running, "Paused": f.paused, "Status": "running"}
	switch {
	case r.Method == "GET" && len(path) == 2: // /containers/json: the list of containers
		answerJSON(w, http.StatusOK, []any{map[string]any{"Id": fakeContainer, "Names": []string{"/" + f.name}, "State": "running", "Labels": labels}})
		return
	case path[0] == "exec":
		f.attach(w)
		return
	case path[1] != fakeContainer && path[1] != f.name:
		answerJSON(w, http.StatusNotFound, map[string]string{"message": "no such container"})
		return
	}
	status := http.StatusNoContent
	switch r.Method + " " + call {
	case "GET json":
		answerJSON(w, http.StatusOK, map[string]any{"Id": fakeContainer, "Name": "/" + f.name, "State": state, "Config": map[string]any{"Labels": labels}})
		return
	case "GET checkpoints":
		list := []any{}
		for _, name := range f.checkpoints {
			list = append(list, map[string]string{"Name": name})
		}
		answerJSON(w, http.StatusOK, list)
		return
	case "POST checkpoints":
		var options struct{ CheckpointID string }
		_ = json.NewDecoder(r.Body).Decode(&options)
		f.checkpoints = append(f.checkpoints, options.CheckpointID)
		status = http.StatusCreated
	case "POST exec":
		if f.frozen {
			answerJSON(w, http.StatusConflict, map[string]string{"message": "the container is frozen"})
			return
		}
		answerJSON(w, http.StatusCreated, map[string]string{"Id": "exec"})
		return
	case "POST rename":
		f.name = r.FormValue("name")
	case "POST kill":
		f.running = false
	case "POST pause":
		f.paused, f.frozen = true, true
	case "POST unpause":
		f.paused, f.frozen = false, false
	default:
		if r.Method != http.MethodDelete {
			status = http.StatusNotImplemented
			break
		}
		f.checkpoints = nil
	}
	if f.loseAnswer[call] {
		status = http.StatusInternalServerError
	}
	w.WriteHeader(status)
}

// attach answers a request to start an exec with a connection on which the guest has accepted a stream.
func (f *fakeAPI) attach(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	_, _ = conn.Write([]byte("HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"))
	_, _ = conn.Write([]byte{frameStdout, 0, 0, 0, 0, 0, 0, 1, stdio.Joined})
	go func() { // closes the connection when the client has closed it
		_, _ = conn.Read(make([]byte, 1))
		conn.Close()
	}()
}

func answerJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}
