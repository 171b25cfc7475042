package api_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// raw passes a request to the handler with the path exactly as given. An HTTP client would clean the path.
func raw(t testing.TB, h http.Handler, method, path, body string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	text := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n", method, path, len(body))
	for _, header := range headers {
		text += header + "\r\n"
	}
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text + "\r\n" + body)))
	if err != nil {
		t.Skipf("net/http itself refuses %q: %v", path, err)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// TestHostilePaths checks that each path, in every encoding, names the intended file, or that the answer explains why it is
// invalid.
func TestHostilePaths(t *testing.T) {
	for _, tt := range []struct {
		name, path string
		status     int
		want       string // the path that WriteFile gets, or, for another status than 200, a part of the error
	}{
		{"plain", "a.txt", 200, "a.txt"},
		{"folders", "a/b/c", 200, "a/b/c"},
		{"escaped slash", "a%2Fb", 200, "a/b"},
		{"escaped percent", "a%252Fb", 200, "a%2Fb"},
		{"space and plus", "a%20b+c", 200, "a b+c"},
		{"quote that makes the path no URL", `a"b%2Fc`, 200, `a"b/c`},
		{"unicode", "%C3%BC/%F0%9F%90%AD", 200, "ü/🐭"},
		{"raw unicode", "ü", 200, "ü"},
		{"question mark and hash", "a%3Fb%23c", 200, "a?b#c"},
		{"double slash", "a//b", 200, "a/b"},
		{"dot", "./a", 200, "a"},
		{"three dots", ".../a", 200, ".../a"},
		{"absolute", "/workspace/a", 200, "a"},
		{"absolute and escaped", "%2Fworkspace%2Fa", 200, "a"},
		{"encoded dots that are a name", "a%2E%2Eb", 200, "a..b"},
		{"backslashes are no separators", "a%5C..%5Cb", 200, `a\..\b`},

		{"up", "..", 400, `has a \"..\"`},
		{"up and away", "../../etc/passwd", 400, `has a \"..\"`},
		{"up inside", "a/../b", 400, `has a \"..\"`},
		{"encoded up", "%2e%2e/%2e%2e/etc/passwd", 400, `has a \"..\"`},
		{"encoded up and slash", "..%2f..%2fetc%2fpasswd", 400, `has a \"..\"`},
		{"absolute elsewhere", "/etc/passwd", 400, "outside /workspace"},
		{"absolute elsewhere, escaped", "%2Fetc%2Fpasswd", 400, "outside /workspace"},
		{"absolute and out again", "/workspace/../etc/passwd", 400, "outside /workspace"},
		{"NUL", "a%00b", 400, "control character"},
		{"line break", "a%0d%0aSet-Cookie:%20x", 400, "control character"},
		{"escape", "%1b%5b31m", 400, "control character"},
		{"invalid UTF-8", "%ff%fe", 400, "not valid UTF-8"},
		{"folder", "a/", 400, "names a folder"},
		{"the workspace", ".", 400, "names the workspace"},
		{"the workspace, absolute", "%2Fworkspace", 400, "names the workspace"},
		{"300 characters", strings.Repeat("x", 300), 400, "has 300 bytes"},
		{"2,000 characters", strings.Repeat("x/", 1000), 400, "2000 bytes long"},
		{"nothing", "", 404, "the name of a file is missing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMemory(t)
			h := handler(m)
			_, err := m.Create(t.Context(), sandbox.CreateRequest{DisplayName: "s"})
			must(t, err)
			w := raw(t, h, "PUT", "/v1/sandboxes/s/files/"+tt.path, "x")
			if w.Code != tt.status || w.Header().Get("Content-Type") != "application/json" {
				t.Fatalf("PUT %s = %d %s %s, want %d", tt.path, w.Code, w.Header(), w.Body, tt.status)
			}
			if tt.status == 200 {
				equal(t, "the path that arrived", m.calls, []string{tt.want})
				if w := raw(t, h, "GET", "/v1/sandboxes/s/files/"+tt.path, ""); w.Code != 200 || w.Body.String() != "x" {
					t.Errorf("GET %s = %d %s", tt.path, w.Code, w.Body)
				}
				return
			}
			if !strings.Contains(w.Body.String(), tt.want) || len(m.calls) > 0 {
				t.Errorf("PUT %s = %s (calls: %q), want %q and no call", tt.path, w.Body, m.calls, tt.want)
			}
		})
	}
}

func FuzzFilePathRoute(f *testing.F) {
	for _, s := range []string{"a", "a/b", "..", "a//b", "a%2Fb", "\x00", "a\"b", "%", "/workspace/x", ";", "\xff"} {
		f.Add(s)
	}
	m := newMemory(f)
	h := handler(fileRecorder{m})
	_, err := m.Create(f.Context(), sandbox.CreateRequest{DisplayName: "s"})
	must(f, err)
	f.Fuzz(func(t *testing.T, path string) {
		if path == "" || len(path) > 2000 {
			return
		}
		want, wantErr := sandbox.ParsePath(path)
		segments := strings.Split(path, "/")
		for i := range segments {
			segments[i] = url.PathEscape(segments[i])
		}
		for _, written := range []string{url.PathEscape(path), strings.Join(segments, "/"), fmt.Sprintf("%%%02x", path[0]) + url.PathEscape(path[1:])} {
			m.calls = nil
			w := raw(t, h, "PUT", "/v1/sandboxes/s/files/"+written, "x")
			switch {
			case path == "/" && w.Code == 404: // the path "files//" may get the same answer as "files/", which is 404
			case wantErr != nil && (w.Code != 400 || len(m.calls) > 0):
				t.Errorf("PUT %s = %d, calls %q, want 400 (%v)", written, w.Code, m.calls, wantErr)
			case wantErr == nil && (len(m.calls) != 1 || m.calls[0] != string(want)):
				t.Errorf("PUT %s arrived as %q, want %q (%s)", written, m.calls, want, w.Body)
			}
		}
	})
}

func TestRanges(t *testing.T) {
	m := newMemory(t)
	c, h, _ := serve(t, m, discardLog())
	_, err := c.Create(t.Context(), sandbox.CreateRequest{DisplayName: "s"})
	must(t, err)
	for name, text := range map[sandbox.Path]string{"ten": "0123456789", "none": ""} {
		_, err := c.WriteFile(t.Context(), "s", name, strings.NewReader(text))
		must(t, err)
	}
	for _, tt := range []struct {
		name, file, header string
		status             int
		body, contentRange string
	}{
		{"whole", "ten", "", 200, "0123456789", ""},
		{"first", "ten", "bytes=0-0", 206, "0", "bytes 0-0/10"},
		{"middle", "ten", "bytes=3-5", 206, "345", "bytes 3-5/10"},
		{"to the end", "ten", "bytes=7-", 206, "789", "bytes 7-9/10"},
		{"beyond the end", "ten", "bytes=8-99", 206, "89", "bytes 8-9/10"},
		{"far beyond the end", "ten", "bytes=8-99999999999999999999999", 206, "89", "bytes 8-9/10"},
		{"last", "ten", "bytes=-4", 206, "6789", "bytes 6-9/10"},
		{"last of more than there is", "ten", "bytes=-400", 206, "0123456789", "bytes 0-9/10"},
		{"all after the end", "ten", "bytes=10-", 416, "", "bytes */10"},
		{"of an empty file", "none", "bytes=0-", 416, "", "bytes */0"},
		{"last of an empty file", "none", "bytes=-1", 416, "", "bytes */0"},
		{"empty file", "none", "", 200, "", ""},
		{"two", "ten", "bytes=0-1,3-4", 400, "", ""},
		{"backwards", "ten", "bytes=5-3", 400, "", ""},
		{"negative", "ten", "bytes=--3", 400, "", ""},
		{"no bytes", "ten", "bytes=-0", 400, "", ""},
		{"other unit", "ten", "lines=0-1", 400, "", ""},
		{"nonsense", "ten", "0-1", 400, "", ""},
		{"plus sign", "ten", "bytes=+1-2", 400, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var headers []string
			if tt.header != "" {
				headers = append(headers, "Range: "+tt.header)
			}
			w := raw(t, h, "GET", "/v1/sandboxes/s/files/"+tt.file, "", headers...)
			equal(t, "status", w.Code, tt.status)
			equal(t, "Content-Range", w.Header().Get("Content-Range"), tt.contentRange)
			if w.Code < 300 {
				equal(t, "body", w.Body.String(), tt.body)
				equal(t, "Content-Length", w.Header().Get("Content-Length"), fmt.Sprint(len(tt.body)))
			}
		})
	}
	t.Run("If-Range gets the whole", func(t *testing.T) {
		w := raw(t, h, "GET", "/v1/sandboxes/s/files/ten", "", "Range: bytes=0-1", `If-Range: "x"`)
		equal(t, "answer", fmt.Sprintf("%d %s", w.Code, w.Body), "200 0123456789")
	})
	t.Run("HEAD", func(t *testing.T) {
		w := raw(t, h, "HEAD", "/v1/sandboxes/s/files/ten", "")
		equal(t, "answer", fmt.Sprintf("%d %s %d", w.Code, w.Header().Get("Content-Length"), w.Body.Len()), "200 10 0")
	})
	for _, tt := range []struct {
		offset, length int64
		want           string
	}{{0, -1, "0123456789"}, {3, -1, "3456789"}, {3, 2, "34"}, {0, 0, ""}, {9, 5, "9"}, {10, -1, ""}, {99, 1, ""}, {0, 3, "012"}} {
		t.Run(fmt.Sprintf("client %d %d", tt.offset, tt.length), func(t *testing.T) {
			body, f, err := c.ReadFile(t.Context(), "s", "ten", tt.offset, tt.length)
			must(t, err)
			defer body.Close()
			got, err := io.ReadAll(body)
			must(t, err)
			equal(t, "answer", fmt.Sprintf("%s %d %s", got, f.Size, f.Path), tt.want+" 10 ten")
		})
	}
	for _, length := range []int64{-1, 0} {
		if _, _, err := c.ReadFile(t.Context(), "s", "no", 0, length); sandbox.KindOf(err) != sandbox.NotFound {
			t.Errorf("ReadFile(no, %d) = %v, want not_found", length, err)
		}
	}
}

// TestFileHeadersAreSafe checks that the name of a file cannot add a header or a parameter, and that a browser does not
// display the file.
func TestFileHeadersAreSafe(t *testing.T) {
	m := newMemory(t)
	c, h, _ := serve(t, m, discardLog())
	_, err := c.Create(t.Context(), sandbox.CreateRequest{DisplayName: "s"})
	must(t, err)
	for _, name := range []string{`a"; filename="b.html`, "ü\u202Etxt.exe", `x\y`, "a;b=c"} {
		_, err := c.WriteFile(t.Context(), "s", sandbox.Path(name), strings.NewReader("<script>"))
		must(t, err)
		w := raw(t, h, "GET", "/v1/sandboxes/s/files/"+url.PathEscape(name), "")
		header := w.Header().Get("Content-Disposition")
		if strings.Count(header, "filename") > 1 && !strings.Contains(header, `\"`) || strings.ContainsFunc(header, func(r rune) bool { return r > 0x7e || r < 0x20 }) {
			t.Errorf("Content-Disposition of %q = %q", name, header)
		}
		equal(t, "Content-Type", w.Header().Get("Content-Type"), "application/octet-stream")
		equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"), "nosniff")
	}
}
