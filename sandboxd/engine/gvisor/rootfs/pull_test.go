package rootfs

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/rootfs/rootfstest"
)

// TestConcurrentCallersShareAPull checks that an image is pulled once for all callers that need it while it is pulled.
func TestConcurrentCallersShareAPull(t *testing.T) {
	var manifests atomic.Int32
	proceed := make(chan struct{})
	handler := registry.New()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/manifests/") {
			manifests.Add(1)
			<-proceed
		}
		handler.ServeHTTP(w, r)
	}))
	defer server.Close()
	ref := strings.TrimPrefix(server.URL, "http://") + "/some/tool:1"
	named, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(named, rootfstest.TwoLayers(t)); err != nil {
		t.Fatal(err)
	}
	i := Open(t.TempDir())
	defer i.Close()
	var pulls [3]*pull
	for n := range pulls {
		if pulls[n], err = i.startOrJoin(ref); err != nil {
			t.Fatal(err)
		}
	}
	close(proceed)
	<-pulls[0].done
	if pulls[1] != pulls[0] || pulls[2] != pulls[0] || pulls[0].err != nil || manifests.Load() != 1 {
		t.Errorf("three callers: the pulls are %v, with the error %v, and the manifest was requested %d times; want one pull and one request",
			pulls, pulls[0].err, manifests.Load())
	}
	server.Close() // an unpacked image needs no registry
	img, err := i.FindOrPull(t.Context(), ref)
	if err != nil || img.Path != "/image/bin:/bin" {
		t.Errorf("FindOrPull() = %+v, %v after the pull, want the image and its PATH", img, err)
	}
	rootfstest.WantUnpacked(t, i.Dir)
}
