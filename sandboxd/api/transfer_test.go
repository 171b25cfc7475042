package api_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/api"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// zeros is a reader of zero bytes. It has no method Len, so a client cannot find out its length in advance.
type zeros struct{ left int64 }

func (z *zeros) Read(p []byte) (int, error) {
	n := min(int64(len(p)), z.left)
	if n == 0 {
		return 0, io.EOF
	}
	clear(p[:n])
	z.left -= n
	return int(n), nil
}

// TestUploadsRefused checks that a client gets the answer to a refused upload, whether or not the client waits for a
// "100 Continue" before it sends the body, and that the next call works.
func TestUploadsRefused(t *testing.T) {
	m := newMemory(t)
	c, _, server := serve(t, m, discardLog())
	_, err := c.Create(t.Context(), sandbox.CreateRequest{DisplayName: "s"})
	must(t, err)
	client := &http.Client{Transport: &http.Transport{DialContext: dialer(server)}}
	for _, tt := range []struct {
		name, path string
		size       int64 // the size of the body; announced in Content-Length unless chunked
		chunked    bool
		encoding   string
		status     int
		want       string
	}{
		{"too large by its length", "s/files/x", sandbox.MaxFileBytes + 1, false, "", 400, "larger than 100 MiB"},
		{"too large without a length", "s/files/x", sandbox.MaxFileBytes + 1, true, "", 400, "larger than 100 MiB"},
		{"no such sandbox", "nobody/files/x", 20 << 20, false, "", 404, "no sandbox"},
		{"compressed", "s/files/x", 20 << 20, false, "gzip", 415, "Content-Encoding"},
		{"bad path", "s/files/..%2Fx", 20 << 20, false, "", 400, `..`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), "PUT", "http://x/v1/sandboxes/"+tt.path, &zeros{tt.size})
			must(t, err)
			if !tt.chunked {
				req.ContentLength = tt.size
			}
			if tt.encoding != "" {
				req.Header.Set("Content-Encoding", tt.encoding)
			}
			resp, err := client.Do(req)
			must(t, err)
			defer resp.Body.Close()
			text, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != tt.status || !strings.Contains(string(text), tt.want) {
				t.Errorf("PUT = %d %s, want %d and %q", resp.StatusCode, text, tt.status, tt.want)
			}
		})
	}
	t.Run("client without a length", func(t *testing.T) {
		_, err := c.WriteFile(t.Context(), "s", "x", &zeros{sandbox.MaxFileBytes + 1})
		if sandbox.KindOf(err) != sandbox.Invalid || !strings.Contains(err.Error(), "larger than 100 MiB") {
			t.Errorf("WriteFile() = %v, want an error of kind invalid about the limit", err)
		}
	})
	t.Run("reader that fails", func(t *testing.T) {
		broken := errors.New("the disk is gone")
		_, err := c.WriteFile(t.Context(), "s", "x", io.MultiReader(&zeros{1 << 20}, failingReader{broken}))
		if !errors.Is(err, broken) {
			t.Errorf("WriteFile() = %v, want the reader's error", err)
		}
	})
	_, err = c.WriteFile(t.Context(), "s", "x", strings.NewReader("next"))
	must(t, err)
}

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }

// TestHundredMegabytes checks that the client and the API can upload and download 100 MiB without holding them in memory.
func TestHundredMegabytes(t *testing.T) {
	m := newMemory(t)
	c, _, _ := serve(t, m, discardLog())
	_, err := c.Create(t.Context(), sandbox.CreateRequest{DisplayName: "s"})
	must(t, err)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)

	start := time.Now()
	f, err := c.WriteFile(t.Context(), "s", "big", &zeros{sandbox.MaxFileBytes})
	must(t, err)
	in := time.Since(start)
	start = time.Now()
	body, got, err := c.ReadFile(t.Context(), "s", "big", 0, -1)
	must(t, err)
	defer body.Close()
	hash := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{hash}, body, make([]byte, 256<<10))
	must(t, err)
	out := time.Since(start)

	runtime.ReadMemStats(&after)
	t.Logf("100 MiB in %v (hashed and stored), out %v (hashed), %d KiB allocated", in, out, (after.TotalAlloc-before.TotalAlloc)>>10)
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 8<<20 {
		t.Errorf("%d bytes were allocated, want at most 8 MiB", allocated)
	}
	equal(t, "size", []int64{n, got.Size, f.Size}, []int64{sandbox.MaxFileBytes, sandbox.MaxFileBytes, sandbox.MaxFileBytes})
	equal(t, "sha256", hex.EncodeToString(hash.Sum(nil)), f.SHA256)
}

// shrinkingFile is an implementation of api.Sandboxes with a file that ends before its announced size.
type shrinkingFile struct{ api.Sandboxes }

// TestIncompleteDownloadIsAnError checks that an incomplete download is an error for the client and not a short file.
func TestIncompleteDownloadIsAnError(t *testing.T) {
	c, _, _ := serve(t, shrinkingFile{}, discardLog())
	body, _, err := c.ReadFile(t.Context(), "s", "x", 0, -1)
	if err == nil {
		defer body.Close()
		_, err = io.Copy(io.Discard, body)
	}
	if sandbox.KindOf(err) != sandbox.Unavailable {
		t.Errorf("reading = %v, want unavailable", err)
	}
}

func BenchmarkFile100MB(b *testing.B) {
	m := newMemory(b)
	c, _, _ := serve(b, discardingFiles{m}, discardLog())
	b.Run("in", func(b *testing.B) {
		b.SetBytes(sandbox.MaxFileBytes)
		for b.Loop() {
			_, err := c.WriteFile(b.Context(), "s", "big", &zeros{sandbox.MaxFileBytes})
			must(b, err)
		}
	})
	b.Run("in, length known", func(b *testing.B) {
		big := make([]byte, sandbox.MaxFileBytes)
		b.SetBytes(sandbox.MaxFileBytes)
		for b.Loop() {
			_, err := c.WriteFile(b.Context(), "s", "big", bytes.NewReader(big))
			must(b, err)
		}
	})
	b.Run("out", func(b *testing.B) {
		b.SetBytes(sandbox.MaxFileBytes)
		buf := make([]byte, 256<<10)
		for b.Loop() {
			body, _, err := c.ReadFile(b.Context(), "s", "big", 0, -1)
			must(b, err)
			_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{body}, buf)
			must(b, err)
			body.Close()
		}
	})
}
