package tools

import (
	"context"
	"fmt"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools/render"
)

var sandboxSchema = rawSchema{"id:string", "state:string", "expire_time:string"}

func (t *toolset) createSandbox() Tool {
	return tool("create_sandbox", "Create a sandbox",
		"Makes a sandbox, when one with a name, a ttl, more memory or files is wanted; execute_code makes a default one by itself.",
		params{
			{name: "display_name", kind: text, about: "Can stand for the id in every call", example: `"sales-analysis"`},
			{name: "language", kind: text, enum: languages, about: "Default python. Both run in every sandbox", example: `"python"`},
			ttlParam("Time to live, such as 24h (default); at most 14d"),
			{name: "memory_mb", kind: integer, min: new(float64(sandbox.MinMemoryMB)), max: new(float64(sandbox.MaxMemoryMB)), about: "Default 2048", example: "2048"},
			{name: "cpus", kind: number, min: new(sandbox.MinCPUs), max: new(sandbox.MaxCPUs), about: "Default 2", example: "2"},
			{name: "image", kind: text, about: "A container image that the user allowed", example: `"my-image:1"`},
			{name: filesName, kind: fileList, about: "Written to /workspace; each has path and one of text, base64, local_path", example: filesExample},
			{name: "fork_of", kind: text, about: "A live sandbox to copy, with its variables, if the engine can", example: `"sbx_…"`},
		},
		hints{}, sandboxSchema, t.callCreateSandbox)
}

func ttlParam(about string) param {
	return param{name: "ttl", kind: duration, about: about, example: `"24h"`}
}

func (t *toolset) callCreateSandbox(ctx context.Context, a arguments) *mcp.CallToolResult {
	r := sandbox.CreateRequest{
		DisplayName: a.text("display_name"),
		Language:    sandbox.Language(a.text("language")),
		MemoryMB:    int(a.integer("memory_mb", 0)),
		CPUs:        a.number("cpus", 0),
		Image:       a.text("image"),
		ForkOf:      a.text("fork_of"),
	}
	if ttl, ok := a.duration("ttl"); ok {
		if err := sandbox.ValidateTTL(time.Duration(ttl)); err != nil { // Create would replace a TTL of 0 by the default
			return t.failure(ctx, subjectNewSandbox, err)
		}
		r.TTL = ttl
	}
	if err := r.Validate(); err != nil {
		return t.failure(ctx, subjectNewSandbox, err)
	}
	made, err := t.sandboxes.Create(ctx, r)
	if err != nil {
		return t.failure(ctx, subjectNewSandbox, err)
	}
	files := a.files()
	if _, err := t.writeAll(ctx, string(made.ID), files); err != nil {
		return render.Error(t.explainFiles(ctx, err) + t.abandon(ctx, string(made.ID), true, "", true))
	}
	words := fmt.Sprintf("Sandbox %s is ready. Pass sandbox_id=%q to execute_code.", made.ID, made.ID)
	if len(files) > 0 {
		words += fmt.Sprintf(" Files written: %d.", len(files))
	}
	return render.Sandbox(words, made)
}
