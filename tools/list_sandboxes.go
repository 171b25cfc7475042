package tools

import (
	"context"
	"fmt"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools/render"
)

func (t *toolset) listSandboxes() Tool {
	return tool("list_sandboxes", "List sandboxes",
		"Lists the sandboxes there are, newest first. get_sandbox has the details of one.",
		params{
			{name: "state", kind: text, enum: []string{"provisioning", "running", "suspended", "terminated"}, about: "Default: all but terminated", example: `"running"`},
			{name: "page_size", kind: integer, min: new(1.0), max: new(float64(sandbox.MaxPageSize)), about: "Default 20", example: "20"},
			{name: "page_token", kind: text, about: "next_page_token of the page before", example: `"…"`},
		},
		hints{readOnly: true, idempotent: true}, rawSchema{"sandboxes:array", "next_page_token:string"}, t.callListSandboxes)
}

// listed is a sandbox in a list. It contains the fields that a model needs to choose a sandbox.
type listed struct {
	ID          sandbox.ID       `json:"id"`
	DisplayName string           `json:"display_name,omitempty"`
	State       sandbox.State    `json:"state"`
	Reason      string           `json:"reason,omitempty"`
	Language    sandbox.Language `json:"language"`
	ForkOf      sandbox.ID       `json:"fork_of,omitempty"`
	CreateTime  time.Time        `json:"create_time"`
	ExpireTime  time.Time        `json:"expire_time"`
}

func summaries(page sandbox.Page) []listed {
	list := []listed{}
	for _, s := range page.Sandboxes {
		list = append(list, listed{s.ID, s.DisplayName, s.State, render.Truncate(s.Reason, render.MaxReason), s.Language, s.ForkOf, s.CreateTime, s.ExpireTime})
	}
	return list
}

func (t *toolset) callListSandboxes(ctx context.Context, a arguments) *mcp.CallToolResult {
	r := sandbox.ListRequest{PageSize: int(a.integer("page_size", 0)), PageToken: a.text("page_token")}
	if s := a.text("state"); s != "" {
		state, err := sandbox.ParseState(s)
		if err != nil {
			return t.failure(ctx, subjectSandbox, err)
		}
		r.State = state
	}
	page, err := t.sandboxes.List(ctx, r)
	if n := render.Fitting(summaries(page)); err == nil && n < len(page.Sandboxes) {
		r.PageSize = n // the token of a cut page would skip the sandboxes after the cut, so list a page of n sandboxes instead
		page, err = t.sandboxes.List(ctx, r)
	}
	if err != nil {
		return t.failure(ctx, subjectSandbox, err)
	}
	answer := struct {
		Sandboxes     []listed `json:"sandboxes"`
		NextPageToken string   `json:"next_page_token,omitempty"`
	}{summaries(page), page.NextPageToken}
	words := fmt.Sprintf("%d sandboxes.", len(answer.Sandboxes))
	switch len(answer.Sandboxes) {
	case 0:
		words = "There are no sandboxes. execute_code without sandbox_id makes one."
	case 1:
		words = "1 sandbox."
	}
	if page.NextPageToken != "" {
		words += " There are more: call list_sandboxes with this page_token: " + page.NextPageToken
	}
	return render.Structured(words, answer)
}
