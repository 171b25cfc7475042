package api_test

import (
	"context"
	"io"
	"net"
	"net/http/httptest"
	"strings"

	"github.com/dormouse-sandbox/dormouse/sandboxd/api"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

func (shrinkingFile) ReadFile(context.Context, string, sandbox.Path, int64, int64) (io.ReadCloser, sandbox.File, error) {
	return io.NopCloser(strings.NewReader("short")), sandbox.File{Size: 1 << 20}, nil
}

// fileRecorder records the paths of written files and discards their contents.
type fileRecorder struct{ *memory }

func (r fileRecorder) WriteFile(_ context.Context, _ string, path sandbox.Path, _ io.Reader) (sandbox.File, error) {
	r.calls = append(r.calls, string(path))
	return sandbox.File{Path: string(path)}, nil
}

// discardingFiles discards written files, so that benchmarks measure only the API and not a disk.
type discardingFiles struct{ api.Sandboxes }

func (discardingFiles) WriteFile(_ context.Context, _ string, path sandbox.Path, body io.Reader) (sandbox.File, error) {
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{body}, make([]byte, 256<<10))
	return sandbox.File{Path: string(path), Size: n}, err
}

func (discardingFiles) ReadFile(context.Context, string, sandbox.Path, int64, int64) (io.ReadCloser, sandbox.File, error) {
	return io.NopCloser(&zeros{sandbox.MaxFileBytes}), sandbox.File{Size: sandbox.MaxFileBytes}, nil
}

func dialer(server *httptest.Server) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", server.Listener.Addr().String())
	}
}
