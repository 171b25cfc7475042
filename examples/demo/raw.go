package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/mark3labs/mcp-go/mcp"
)

// raw is a second MCP client with its own connection. It implements JSON-RPC itself, because a client library parses a
// large message several times, which takes longer than everything that Dormouse does with the message.
type raw struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startRaw(ctx context.Context, binary string, env ...string) (*raw, error) {
	r := &raw{cmd: exec.CommandContext(ctx, binary, "mcp")}
	r.cmd.Env = append(os.Environ(), env...)
	in, err := r.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	r.in, r.out = in, bufio.NewReaderSize(out, 1<<20)
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	_, err = r.ask("initialize", map[string]any{
		"protocolVersion": mcp.LATEST_PROTOCOL_VERSION,
		"capabilities":    map[string]any{},
		"clientInfo":      map[string]any{"name": "dormouse-demo", "version": "1"},
	})
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

// close stops `dormouse mcp` by closing its stdin, and waits for it.
func (r *raw) close() error { return errors.Join(r.in.Close(), r.cmd.Wait()) }

// result is the part of a tool's result that the demo needs. The blob of a file is base64 in JSON, which encoding/json
// decodes to a []byte.
type result struct {
	IsError bool `json:"isError"`
	Content []struct {
		Text     string `json:"text"`
		Resource struct {
			Blob []byte `json:"blob"`
		} `json:"resource"`
	} `json:"content"`
}

// call calls a tool and waits for its result. It returns an error if the tool returns an error or no content.
func (r *raw) call(tool string, a args) (result, error) {
	res, err := r.ask("tools/call", map[string]any{"name": tool, "arguments": a})
	if err == nil && (res.IsError || len(res.Content) == 0) {
		err = fmt.Errorf("%s: %+v", tool, res.Content)
	}
	return res, err
}

func (r *raw) ask(method string, params any) (res result, err error) {
	if err := json.NewEncoder(r.in).Encode(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params}); err != nil {
		return res, fmt.Errorf("%s: %w", method, err)
	}
	line, err := r.out.ReadBytes('\n')
	if err != nil {
		return res, fmt.Errorf("%s: %w", method, err)
	}
	var answer struct {
		Result result          `json:"result"`
		Error  json.RawMessage `json:"error"`
	}
	if err := json.Unmarshal(line, &answer); err != nil {
		return res, fmt.Errorf("%s: %w", method, err)
	}
	if answer.Error != nil {
		return res, fmt.Errorf("%s: %s", method, answer.Error)
	}
	return answer.Result, nil
}
