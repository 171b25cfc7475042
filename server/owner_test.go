package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/mark3labs/mcp-go/client"
	"github.com/mark3labs/mcp-go/client/transport"
	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/server"
	"github.com/dormouse-sandbox/dormouse/tools"
)

// counted is a fake daemon that records the owner of the last request to list its sandboxes.
type counted struct {
	fakeDaemon
	by sandbox.Owner
}

func (c *counted) List(ctx context.Context, r sandbox.ListRequest) (sandbox.Page, error) {
	c.by = sandbox.OwnerOf(ctx)
	return c.fakeDaemon.List(ctx, r)
}

// TestS03_OwnerOfARequest checks that, on every transport, the owner of a request is that of its token, and that no header,
// field or parameter can change it.
func TestS03_OwnerOfARequest(t *testing.T) {
	secrets := map[string]string{"default": secret, "alice": secret + "-of-alice", "bob": secret + "-of-bob"}
	var tokens []server.Token
	for name, s := range secrets {
		token, err := server.NewToken(name, s)
		if err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, token)
	}
	whoami := tools.Tool{
		Definition: mcp.Tool{Name: "whoami", RawInputSchema: json.RawMessage(`{"type":"object"}`)},
		Call: func(ctx context.Context, _ any) *mcp.CallToolResult {
			return mcp.NewToolResultText("for " + string(sandbox.OwnerOf(ctx)) + "!")
		},
	}
	file := tools.Resource{
		Template: mcp.NewResourceTemplate("sandbox://{sandbox_id}/files/{+path}", "file"),
		Read: func(ctx context.Context, uri string) (mcp.ResourceContents, error) {
			return mcp.TextResourceContents{URI: uri, Text: "for " + string(sandbox.OwnerOf(ctx)) + "!"}, nil
		},
	}
	daemon := &counted{}
	h, err := server.NewHTTP(server.New([]tools.Tool{whoami}, server.Config{Resources: []tools.Resource{file}}), server.HTTPConfig{
		Address: "127.0.0.1:8765", Tokens: tokens, SSE: true, Sandboxes: daemon,
		API: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "for %s!", sandbox.OwnerOf(r.Context())) }),
	})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(h)
	t.Cleanup(web.Close)
	t.Cleanup(h.Drain)

	for name, s := range secrets {
		want, other := "for "+name+"!", "bob"
		switch name {
		case "default":
			want = "for !"
		case "bob":
			other = "default"
		}
		headers := map[string]string{"Authorization": "Bearer " + s, "Owner": other, "X-Owner": other, "X-Dormouse-Owner": other, "X-Forwarded-User": other, "X-Remote-User": other, "From": other}
		t.Run(name+" over REST", func(t *testing.T) {
			r, _ := http.NewRequest("GET", web.URL+"/v1/sandboxes?owner="+other, nil)
			for k, v := range headers {
				r.Header.Set(k, v)
			}
			res, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if body, _ := io.ReadAll(res.Body); string(body) != want {
				t.Errorf("got %s, want %s", body, want)
			}
			r.URL.Path = "/metrics"
			res, err = http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if body, _ := io.ReadAll(res.Body); daemon.by != sandbox.Operator || strings.Contains(string(body), "alice") || !strings.Contains(string(body), `dormouse_sandboxes{state="running"} 2`) {
				t.Errorf("the sandboxes for the metrics were listed for %q, want the operator, and no names of owners:\n%s", daemon.by, body)
			}
		})
		for _, kind := range []string{"streamable", "sse"} {
			t.Run(name+" over "+kind, func(t *testing.T) {
				var wire transport.Interface
				var err error
				if kind == "sse" {
					wire, err = transport.NewSSE(web.URL+"/sse?owner="+other, transport.WithHeaders(headers))
				} else {
					wire, err = transport.NewStreamableHTTP(web.URL+"/mcp?owner="+other, transport.WithHTTPHeaders(headers))
				}
				if err != nil {
					t.Fatal(err)
				}
				c := client.NewClient(wire)
				if err := c.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if _, err := c.Initialize(t.Context(), mcp.InitializeRequest{Params: mcp.InitializeParams{ProtocolVersion: mcp.LATEST_PROTOCOL_VERSION}}); err != nil {
					t.Fatal(err)
				}
				call := mcp.CallToolRequest{}
				call.Params.Name, call.Params.Arguments = "whoami", map[string]any{"owner": other}
				if r, err := c.CallTool(t.Context(), call); err != nil || r.Content[0].(mcp.TextContent).Text != want {
					t.Errorf("a tool is called %+v, %v, want %s", r, err, want)
				}
				read := mcp.ReadResourceRequest{}
				read.Params.URI = "sandbox://x/files/a"
				if r, err := c.ReadResource(t.Context(), read); err != nil || r.Contents[0].(mcp.TextResourceContents).Text != want {
					t.Errorf("a resource is read %+v, %v, want %s", r, err, want)
				}
			})
		}
	}
}

// TestS03_AnothersStream checks that posting to another owner's stream gets the same answer as posting to a stream that does
// not exist.
func TestS03_AnothersStream(t *testing.T) {
	mine, _ := server.NewToken("alice", secret)
	const other = "dormouse_another-secret-of-the-tests-0123456789"
	his, _ := server.NewToken("bob", other)
	address, _ := serve(t, func(c *server.HTTPConfig) { c.Tokens = []server.Token{mine, his} })
	s := openSSE(t, address)
	res, body := ask(t, "POST", s.endpoint, toolCall("1", "echo", `{}`), "Authorization: Bearer "+other)
	none, says := ask(t, "POST", "http://"+address+"/message?sessionId=none", toolCall("1", "echo", `{}`), "Authorization: Bearer "+other)
	if res.StatusCode != http.StatusNotFound || none.StatusCode != res.StatusCode || body != says {
		t.Errorf("a post to the stream of another token: %d %s, to an unknown stream: %d %s; want the same 404", res.StatusCode, body, none.StatusCode, says)
	}
}
