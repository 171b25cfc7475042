package docker_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/docker"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/enginetest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

var uids atomic.Int64

// spec returns the spec of a small sandbox, with a user that no other spec has, because tests run in parallel.
func spec(image string) engine.Spec {
	return engine.Spec{ID: sandbox.NewID(), Image: image, UID: 250_000 + int(uids.Add(1)), Expires: time.Now().Add(time.Hour), Language: sandbox.Python,
		Limits: sandbox.Limits{MemoryBytes: 256 << 20, CPUs: 1, Processes: 100, WorkspaceBytes: 64 << 20}}
}

// createAndRemove creates a sandbox, which succeeds only if the guest is installed and runs, and removes it.
func createAndRemove(t *testing.T, e *docker.Engine, image string) {
	t.Helper()
	s := spec(image)
	if err := e.Create(t.Context(), s); err != nil {
		t.Errorf("Create: %v", err)
	}
	if err := e.Remove(t.Context(), s.ID); err != nil {
		t.Errorf("Remove: %v", err)
	}
}

func TestPrunedGuestIsReinstalled(t *testing.T) {
	image, guest := testImage(t), enginetest.Probe(t)
	e := open(t, docker.Config{Home: "test-prune", Bundle: guest})
	t.Cleanup(func() { killForgottenShims(t) }) // the failed start without the guest leaves a shim
	createAndRemove(t, e, image)
	if err := e.RemoveVolume(t.Context(), e.VolumeOf(guest, runtime.GOARCH)); err != nil {
		t.Fatal(err)
	}
	createAndRemove(t, e, image)
}

// brokenBundle is a bundle whose guest can't be read, so that the installation of its files stops halfway, as if the
// daemon had been killed.
type brokenBundle struct{ engine.Bundle }

func (b brokenBundle) Files(arch string) (fs.FS, error) {
	files, err := b.Bundle.Files(arch)
	return brokenFS{files}, err
}

type brokenFS struct{ fs.FS }

func (b brokenFS) Open(name string) (fs.File, error) {
	if name == "guest" { // the other file, folder/file, is written before the guest
		return nil, errors.New("the daemon was killed")
	}
	return b.FS.Open(name)
}

func TestAnAbortedInstallationIsNotTrusted(t *testing.T) {
	image, guest := testImage(t), enginetest.Probe(t)
	half := open(t, docker.Config{Home: "test-abort", Bundle: brokenBundle{guest}})
	if err := half.Create(t.Context(), spec(image)); err == nil {
		t.Error("Create with an incomplete guest = nil, want an error")
	}
	createAndRemove(t, open(t, docker.Config{Home: "test-abort", Bundle: guest}), image)
}

// renamedBundle is a bundle with an id, and therefore a volume, that no other test uses.
type renamedBundle struct{ engine.Bundle }

func (renamedBundle) ID() string { return "00e0000e0000" }

func TestTruncatedGuestIsReinstalled(t *testing.T) {
	image, guest := testImage(t), renamedBundle{enginetest.Probe(t)}
	e := open(t, docker.Config{Home: "test-emptied", Bundle: guest})
	createAndRemove(t, e, image)
	if err := e.EmptyGuest(t.Context(), guest, image, "guest"); err != nil {
		t.Fatal(err)
	}
	createAndRemove(t, open(t, docker.Config{Home: "test-emptied", Bundle: guest}), image)
}

func TestStaleHelperIsRemoved(t *testing.T) {
	image, guest := testImage(t), enginetest.Probe(t)
	e := open(t, docker.Config{Home: "test-left", Bundle: guest})
	if err := e.LeaveHelper(t.Context(), guest, image); err != nil {
		t.Fatal(err)
	}
	createAndRemove(t, e, image)
}

func TestTwoDaemonsInstallTheGuestAtOnce(t *testing.T) {
	image, guest := testImage(t), enginetest.Probe(t)
	var group sync.WaitGroup
	for range 4 {
		e := open(t, docker.Config{Home: "test-both", Bundle: guest})
		group.Go(func() { createAndRemove(t, e, image) })
	}
	group.Wait()
}

// TestStoppedEngineIsUnavailable checks that each call to an engine that no longer answers returns an error of kind
// unavailable, which contains no path.
func TestStoppedEngineIsUnavailable(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "docker.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/_ping", func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Api-Version", "1.41") })
	mux.HandleFunc("/v1.41/info", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"ServerVersion":"20.10.24","DefaultRuntime":"runc","Runtimes":{"runc":{}},"OSType":"linux"}`)
	})
	mux.HandleFunc("/v1.41/containers/json", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `[]`) })
	mux.HandleFunc("/v1.41/version", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{}`) })
	server := &http.Server{Handler: mux}
	go server.Serve(listener)
	e, err := docker.New(t.Context(), docker.Config{Home: "test", Host: "unix://" + socket, Bundle: enginetest.Guest(nil)})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	server.Close()

	id := sandbox.NewID()
	_, dialErr := e.Dial(t.Context(), id)
	_, listErr := e.List(t.Context())
	_, imageErr := e.HasImage(t.Context(), "x")
	for what, err := range map[string]error{
		"Create": e.Create(t.Context(), spec("x")), "Dial": dialErr, "List": listErr,
		"Remove": e.Remove(t.Context(), id), "HasImage": imageErr,
		"ImportImage": e.ImportImage(t.Context(), strings.NewReader(""), "x:1"),
	} {
		if sandbox.KindOf(err) != sandbox.Unavailable || strings.Contains(err.Error(), socket) {
			t.Errorf("%s = %v, want an unavailable error without a path", what, err)
		}
	}
	for _, c := range e.Doctor(t.Context(), "x")[1:] {
		if c.Status != engine.Bad {
			t.Errorf("Doctor reports %+v, want the status bad", c)
		}
	}
}

func TestMissingRuntimeIsUnavailable(t *testing.T) {
	e := open(t, docker.Config{Home: "test"})
	_, err := docker.New(t.Context(), docker.Config{Home: "test", Runtime: "no-such-runtime"})
	if sandbox.KindOf(err) != sandbox.Unavailable || !strings.Contains(err.Error(), e.Info().Runtime) {
		t.Errorf("New = %v, want an unavailable error that names the available runtimes", err)
	}
}

func TestImportedImageExists(t *testing.T) {
	e := open(t, docker.Config{Home: "test"})
	ref := "dormouse-test-" + strings.TrimPrefix(string(sandbox.NewID()), "sbx_") + ":1"
	var root bytes.Buffer
	archive := tar.NewWriter(&root)
	if err := errors.Join(archive.WriteHeader(&tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755}), archive.Close()); err != nil {
		t.Fatal(err)
	}
	if err := e.ImportImage(t.Context(), &root, ref, "ENV PATH=/bin", "LABEL a=b"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.RemoveImage(context.WithoutCancel(t.Context()), ref) })
	if has, err := e.HasImage(t.Context(), ref); !has || err != nil {
		t.Errorf("HasImage of the imported image = %v, %v, want true", has, err)
	}
	if has, err := e.HasImage(t.Context(), "dormouse-test-none:1"); has || err != nil {
		t.Errorf("HasImage of a missing image = %v, %v, want false", has, err)
	}
	// An almost empty image can run a sandbox, because the guest needs no file of the image.
	guest := enginetest.Probe(t)
	createAndRemove(t, open(t, docker.Config{Home: "test-import", Bundle: guest}), ref)
}

// BenchmarkCreate measures the creation of a sandbox, the guest's first answer over a new stream, and the removal of the
// sandbox.
func BenchmarkCreate(b *testing.B) {
	for _, name := range []string{"runc", "runsc"} {
		b.Run(name, func(b *testing.B) {
			image, guest := testImage(b), enginetest.Probe(b)
			e := open(b, docker.Config{Home: "test-bench", Bundle: guest, Runtime: name})
			var create, dial, remove time.Duration
			run := func() {
				s, start := spec(image), time.Now()
				if err := e.Create(b.Context(), s); err != nil {
					b.Fatal(err)
				}
				create += time.Since(start)
				start = time.Now()
				answer(b, e, s.ID)
				dial += time.Since(start)
				start = time.Now()
				if err := e.Remove(b.Context(), s.ID); err != nil {
					b.Fatal(err)
				}
				remove += time.Since(start)
			}
			run() // not measured, because the first run installs the guest
			create, dial, remove = 0, 0, 0
			b.ResetTimer()
			for range b.N {
				run()
			}
			ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 / float64(b.N) }
			b.ReportMetric(ms(create), "ms-create")
			b.ReportMetric(ms(dial), "ms-dial+answer")
			b.ReportMetric(ms(remove), "ms-remove")
		})
	}
}

// answer sends one request to a sandbox's guest over a new stream, and waits for the response.
func answer(b *testing.B, e *docker.Engine, id sandbox.ID) {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return e.Dial(ctx, id) }}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("http://guest/args")
	if err != nil {
		b.Fatal(err)
	}
	resp.Body.Close()
}
