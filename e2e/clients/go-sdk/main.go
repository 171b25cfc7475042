// Command go-sdk runs the scenario of e2e/clients/scenario.json against Dormouse with the official Go SDK. It is a separate
// module, so that Dormouse does not depend on the SDK.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// step is one tool call in scenario.json, with the requirements on its answer.
type step struct {
	Tool   string            `json:"tool"`
	Args   json.RawMessage   `json:"args"`
	Says   []string          `json:"says"`
	Images int               `json:"images"`
	Error  bool              `json:"error"`
	Slow   bool              `json:"slow"`
	Save   map[string]string `json:"save"`
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	if err := run(ctx, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, transport string) error {
	session, err := mcp.NewClient(&mcp.Implementation{Name: "go-sdk", Version: "1"}, nil).Connect(ctx, wire(transport), nil)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer session.Close()
	list, err := session.ListTools(ctx, nil)
	if err != nil {
		return fmt.Errorf("list tools: %w", err)
	}
	if len(list.Tools) != 10 {
		return fmt.Errorf("list tools: got %d tools, want 10", len(list.Tools))
	}
	text, err := os.ReadFile(os.Getenv("DORMOUSE_SCENARIO"))
	if err != nil {
		return err
	}
	var steps []step
	if err := json.Unmarshal(text, &steps); err != nil {
		return err
	}
	known := map[string]string{"name": "go-sdk-" + transport}
	used := map[string]bool{}
	for _, s := range steps {
		if s.Slow && os.Getenv("DORMOUSE_SLOW") == "" {
			continue
		}
		used[s.Tool] = true
		if err := s.do(ctx, session, known); err != nil {
			return err
		}
	}
	if len(used) != len(list.Tools) {
		return fmt.Errorf("the scenario called %d tools (%v), want all %d", len(used), used, len(list.Tools))
	}
	return nil
}

func (s step) do(ctx context.Context, session *mcp.ClientSession, known map[string]string) error {
	fill := func(text string) string {
		return regexp.MustCompile(`\$\w+`).ReplaceAllStringFunc(text, func(name string) string { return known[name[1:]] })
	}
	result, err := session.CallTool(ctx, &mcp.CallToolParams{Name: s.Tool, Arguments: json.RawMessage(fill(string(s.Args)))})
	if err != nil {
		return fmt.Errorf("%s: %w", s.Tool, err)
	}
	var said strings.Builder
	images := 0
	for _, c := range result.Content {
		switch c := c.(type) {
		case *mcp.TextContent:
			said.WriteString(c.Text + "\n")
		case *mcp.ImageContent:
			images++
		}
	}
	if result.IsError != s.Error || images != s.Images {
		return fmt.Errorf("%s: got IsError %t and %d images, want %t and %d; the answer: %s", s.Tool, result.IsError, images, s.Error, s.Images, &said)
	}
	for _, words := range s.Says {
		if !strings.Contains(said.String(), fill(words)) {
			return fmt.Errorf("%s: the answer does not contain %q: %s", s.Tool, fill(words), &said)
		}
	}
	for name, pattern := range s.Save {
		known[name] = regexp.MustCompile(pattern).FindString(said.String())
	}
	return nil
}

func wire(transport string) mcp.Transport {
	client, url := &http.Client{Transport: bearer(os.Getenv("DORMOUSE_TOKEN"))}, os.Getenv("DORMOUSE_URL")
	switch transport {
	case "http":
		return &mcp.StreamableClientTransport{Endpoint: url + "/mcp", HTTPClient: client}
	case "sse":
		return &mcp.SSEClientTransport{Endpoint: url + "/sse", HTTPClient: client}
	}
	return &mcp.CommandTransport{Command: exec.Command(os.Getenv("DORMOUSE"), "mcp")}
}

// bearer is a token. As an http.RoundTripper it adds the token to each request.
type bearer string

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(b))
	return http.DefaultTransport.RoundTrip(r)
}
