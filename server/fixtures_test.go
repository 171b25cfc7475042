package server_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	mcpserver "github.com/mark3labs/mcp-go/server"

	"github.com/dormouse-sandbox/dormouse/server"
)

// addFixtures adds the tools, resources and prompts that the conformance suite requires. Its scenarios specify their names
// and answers.
func addFixtures(s *mcpserver.MCPServer) {
	mcpserver.WithCompletions()(s)
	mcpserver.WithLogging()(s) // only the suite needs logging: Dormouse sends no log messages to clients
	mcpserver.WithResourceCapabilities(true, false)(s)
	addContentFixtures(s)
	addClientFixtures(s)
	addInputFixtures(s)
	addResourceFixtures(s)
	addPromptFixtures(s)
}

const (
	pixel   = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC" // 1x1 PNG
	silence = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA="                                 // an empty WAV
)

type content = mcp.Content

func textOf(s string) mcp.TextContent { return mcp.TextContent{Type: "text", Text: s} }

func embedded(uri, media, text string) mcp.EmbeddedResource {
	return mcp.NewEmbeddedResource(mcp.TextResourceContents{URI: uri, MIMEType: media, Text: text})
}

func objectSchema(properties map[string]any, required ...string) map[string]any {
	return map[string]any{"type": "object", "properties": properties, "required": append([]string{}, required...)}
}

func addFixture(s *mcpserver.MCPServer, name string, call mcpserver.ToolHandlerFunc) {
	addFixtureWith(s, name, `{"type":"object"}`, call)
}

func addFixtureWith(s *mcpserver.MCPServer, name, schema string, call mcpserver.ToolHandlerFunc) {
	s.AddTool(mcp.Tool{Name: name, Description: "A fixture of the conformance suite", RawInputSchema: json.RawMessage(schema)}, call)
}

// addContentFixtures adds tools that return a fixed result, one for each kind of content.
func addContentFixtures(s *mcpserver.MCPServer) {
	for name, answer := range map[string][]content{
		"test_simple_text":       {textOf("This is a simple text response for testing.")},
		"test_image_content":     {mcp.NewImageContent(pixel, "image/png")},
		"test_audio_content":     {mcp.NewAudioContent(silence, "audio/wav")},
		"test_embedded_resource": {embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")},
		"test_multiple_content_types": {textOf("Multiple content types test:"), mcp.NewImageContent(pixel, "image/png"),
			embedded("test://mixed-content-resource", "application/json", `{"test":"data","value":123}`)},
	} {
		addFixture(s, name, func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return &mcp.CallToolResult{Content: answer}, nil
		})
	}
	addFixture(s, "test_error_handling", func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return mcp.NewToolResultError("This tool intentionally returns an error for testing"), nil
	})
	addFixtureWith(s, "json_schema_2020_12_tool", `{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object",`+
		`"$defs":{"address":{"$anchor":"addressDef","type":"object","properties":{"street":{"type":"string"},"city":{"type":"string"}}}},`+
		`"properties":{"name":{"type":"string"},"address":{"$ref":"#/$defs/address"},"contactMethod":{"type":"string","enum":["phone","email"]},"phone":{"type":"string"},"email":{"type":"string"}},`+
		`"allOf":[{"anyOf":[{"required":["phone"]},{"required":["email"]}]}],`+
		`"if":{"properties":{"contactMethod":{"const":"phone"}},"required":["contactMethod"]},"then":{"required":["phone"]},"else":{"required":["email"]},`+
		`"additionalProperties":false}`,
		func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return mcp.NewToolResultText("ok"), nil
		})
	addFixtureWith(s, "test_custom_headers", `{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"}}}`,
		func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return mcp.NewToolResultText("ok"), nil
		})
	addFixture(s, "test_tool_with_progress", func(ctx context.Context, r mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		if r.Params.Meta == nil || r.Params.Meta.ProgressToken == nil {
			return mcp.NewToolResultText("no progress was asked for"), nil
		}
		for _, n := range []int{0, 50, 100} {
			n := map[string]any{"progressToken": r.Params.Meta.ProgressToken, "progress": n, "total": 100}
			if err := s.SendNotificationToClient(ctx, "notifications/progress", n); err != nil {
				return nil, err
			}
		}
		server.AwaitMessages(ctx, 3)
		return mcp.NewToolResultText("progress was reported"), nil
	})
	// The suite expects log messages only from the first tool.
	for _, name := range []string{"test_tool_with_logging", "test_logging_tool"} {
		addFixture(s, name, func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			for _, text := range []string{"Tool execution started", "Tool processing data", "Tool execution completed"} {
				if err := s.SendLogMessageToClient(ctx, mcp.NewLoggingMessageNotification(mcp.LoggingLevelInfo, "fixture", text)); err != nil {
					return nil, err
				}
			}
			if name == "test_tool_with_logging" {
				server.AwaitMessages(ctx, 3)
			}
			return mcp.NewToolResultText("logged"), nil
		})
	}
}

// addClientFixtures adds tools that send requests to the client during a call, as protocol versions up to 2025-11-25 specify.
// The server has no sessions, so no client can answer these requests, and the tools give up after a short time.
func addClientFixtures(s *mcpserver.MCPServer) {
	addFixtureWith(s, "test_sampling", `{"type":"object","properties":{"prompt":{"type":"string"}},"required":["prompt"]}`,
		func(ctx context.Context, r mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			//lint:ignore SA1019 2025-11-25 has it, and the suite asks for it
			answer, err := s.RequestSampling(ctx, mcp.CreateMessageRequest{CreateMessageParams: sampling(r.GetString("prompt", ""), 100)})
			if err != nil {
				return mcp.NewToolResultError(err.Error()), nil
			}
			return mcp.NewToolResultText(fmt.Sprintf("LLM response: %v", answer.Content)), nil
		})
	option := func(value, title string) map[string]any { return map[string]any{"const": value, "title": title} }
	for name, schema := range map[string]map[string]any{
		"test_elicitation": objectSchema(map[string]any{"username": map[string]any{"type": "string"}, "email": map[string]any{"type": "string"}}, "username", "email"),
		"test_elicitation_sep1034_defaults": objectSchema(map[string]any{
			"name":     map[string]any{"type": "string", "default": "John Doe"},
			"age":      map[string]any{"type": "integer", "default": 30},
			"score":    map[string]any{"type": "number", "default": 95.5},
			"status":   map[string]any{"type": "string", "enum": []string{"active", "inactive", "pending"}, "default": "active"},
			"verified": map[string]any{"type": "boolean", "default": true},
		}),
		"test_elicitation_sep1330_enums": objectSchema(map[string]any{
			"untitledSingle": map[string]any{"type": "string", "enum": []string{"option1", "option2", "option3"}},
			"titledSingle":   map[string]any{"type": "string", "oneOf": []any{option("value1", "First Option"), option("value2", "Second Option")}},
			"legacyEnum":     map[string]any{"type": "string", "enum": []string{"opt1", "opt2"}, "enumNames": []string{"Option One", "Option Two"}},
			"untitledMulti":  map[string]any{"type": "array", "items": map[string]any{"type": "string", "enum": []string{"option1", "option2"}}},
			"titledMulti":    map[string]any{"type": "array", "items": map[string]any{"anyOf": []any{option("value1", "First Choice"), option("value2", "Second Choice")}}},
		}),
	} {
		addFixture(s, name, func(ctx context.Context, r mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			answer, err := s.RequestElicitation(ctx, mcp.ElicitationRequest{Params: mcp.ElicitationParams{Message: r.GetString("message", "?"), RequestedSchema: schema}})
			if err != nil {
				return mcp.NewToolResultError(err.Error()), nil
			}
			return mcp.NewToolResultText(fmt.Sprintf("User response: action=%s, content=%v", answer.Action, answer.Content)), nil
		})
	}
}

func sampling(prompt string, tokens int) mcp.CreateMessageParams {
	return mcp.CreateMessageParams{Messages: []mcp.SamplingMessage{{Role: mcp.RoleUser, Content: textOf(prompt)}}, MaxTokens: tokens}
}

func question(text, field, kind string) mcp.ElicitationParams {
	return mcp.ElicitationParams{Message: text, RequestedSchema: objectSchema(map[string]any{field: map[string]any{"type": kind}}, field)}
}

// sign returns a signed request state, which a client cannot forge.
func sign(state string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(state))
	return state + "." + hex.EncodeToString(mac.Sum(nil))
}

// addInputFixtures adds tools that ask the client for input by returning a result with questions. The client then calls the
// tool again with the answers, as protocol version 2026-07-28 specifies.
func addInputFixtures(s *mcpserver.MCPServer) {
	ask := mcpserver.NewInputRequestBuilder
	// Each tool asks in one or more rounds. The request state contains the number of the round.
	for name, rounds := range map[string][]*mcpserver.InputRequestBuilder{
		"elicitation":     {ask("").Elicit("user_name", question("What is your name?", "name", "string"))},
		"sampling":        {ask("").Sample("capital_question", sampling("What is the capital of France?", 100))},
		"list_roots":      {ask("").Roots("client_roots")},
		"request_state":   {ask(sign("1")).Elicit("confirm", question("Please confirm", "ok", "boolean"))},
		"tampered_state":  {ask(sign("1")).Elicit("confirm", question("Please confirm", "ok", "boolean"))},
		"multiple_inputs": {ask(sign("1")).Elicit("user_name", question("What is your name?", "name", "string")).Sample("greeting", sampling("Generate a greeting", 50)).Roots("client_roots")},
		"multi_round": {ask(sign("1")).Elicit("step1", question("Step 1: What is your name?", "name", "string")),
			ask(sign("2")).Elicit("step2", question("Step 2: What is your favorite color?", "color", "string"))},
	} {
		addFixture(s, "test_input_required_result_"+name, func(_ context.Context, r mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			round := 0
			if state := r.Params.RequestState; state != "" {
				n, _, _ := strings.Cut(state, ".")
				if sign(n) != state {
					return nil, fmt.Errorf("the request state is not ours: %w", mcp.ErrInvalidParams)
				}
				fmt.Sscan(n, &round)
				round--
			}
			asked := rounds[round].ToolResult()
			for id := range asked.InputRequests {
				answer, ok := mcpserver.InputResponse(r.Params.InputResponses, id)
				if !ok || !answered(asked.InputRequests[id].Method, answer) {
					return asked, nil
				}
			}
			if round++; round < len(rounds) {
				return rounds[round].ToolResult(), nil
			}
			return mcp.NewToolResultText(fmt.Sprintf("state-ok: Hello, %v!", r.Params.InputResponses)), nil
		})
	}
	addFixture(s, "test_input_required_result_capabilities", func(_ context.Context, r mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		b := ask("")
		if hasCapability(r, "sampling") {
			b.Sample("capital_question", sampling("What is the capital of France?", 100))
		}
		if hasCapability(r, "elicitation") {
			b.Elicit("user_name", question("What is your name?", "name", "string"))
		}
		return b.ToolResult(), nil
	})
	addFixture(s, "test_missing_capability", func(_ context.Context, r mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		if !hasCapability(r, "sampling") {
			return nil, mcp.MissingRequiredClientCapabilityError{Capability: "sampling"}
		}
		return ask("").Sample("capital_question", sampling("What is the capital of France?", 100)).ToolResult(), nil
	})
	addFixture(s, "test_streaming_elicitation", func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return ask("").Elicit("user_name", question("What is your name?", "name", "string")).ToolResult(), nil
	})
	s.AddPrompt(mcp.NewPrompt("test_input_required_result_prompt", described), func(_ context.Context, r mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
		if _, ok := mcpserver.InputResponse(r.Params.InputResponses, "user_context"); !ok {
			return ask("").Elicit("user_context", question("What context should the prompt use?", "context", "string")).PromptResult(), nil
		}
		return prompt(textOf("with context")), nil
	})
}

// hasCapability reports whether the client of a request declared the capability.
func hasCapability(r mcp.CallToolRequest, capability string) bool {
	if r.Params.Meta == nil {
		return false
	}
	capabilities, _ := r.Params.Meta.AdditionalFields["io.modelcontextprotocol/clientCapabilities"].(map[string]any)
	return capabilities[capability] != nil
}

func answered(method mcp.MCPMethod, answer mcp.InputResponse) bool {
	if answer.DecodeFor(method) != nil {
		return false
	}
	return answer.Elicitation == nil || answer.Elicitation.Action != ""
}

func prompt(parts ...content) *mcp.GetPromptResult {
	r := &mcp.GetPromptResult{}
	for _, p := range parts {
		r.Messages = append(r.Messages, mcp.PromptMessage{Role: mcp.RoleUser, Content: p})
	}
	return r
}

var described = mcp.WithPromptDescription("A fixture of the conformance suite")

func addPromptFixtures(s *mcpserver.MCPServer) {
	required := func(name string) mcp.PromptOption { return mcp.WithArgument(name, mcp.RequiredArgument()) }
	s.AddPrompt(mcp.NewPrompt("test_simple_prompt", described), func(context.Context, mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
		return prompt(textOf("This is a simple prompt for testing.")), nil
	})
	s.AddPrompt(mcp.NewPrompt("test_prompt_with_arguments", described, required("arg1"), required("arg2")), func(_ context.Context, r mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
		return prompt(textOf(fmt.Sprintf("Prompt with arguments: arg1='%s', arg2='%s'", r.Params.Arguments["arg1"], r.Params.Arguments["arg2"]))), nil
	})
	s.AddPrompt(mcp.NewPrompt("test_prompt_with_embedded_resource", described, required("resourceUri")), func(_ context.Context, r mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
		return prompt(embedded(r.Params.Arguments["resourceUri"], "text/plain", "Embedded resource content for testing."), textOf("Please process the embedded resource above.")), nil
	})
	s.AddPrompt(mcp.NewPrompt("test_prompt_with_image", described), func(context.Context, mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
		return prompt(mcp.NewImageContent(pixel, "image/png"), textOf("Please analyze the image above.")), nil
	})
}

func addResourceFixtures(s *mcpserver.MCPServer) {
	s.AddResource(mcp.NewResource("test://static-text", "static-text", mcp.WithMIMEType("text/plain")), func(context.Context, mcp.ReadResourceRequest) ([]mcp.ResourceContents, error) {
		return []mcp.ResourceContents{mcp.TextResourceContents{URI: "test://static-text", MIMEType: "text/plain", Text: "This is the content of the static text resource."}}, nil
	})
	s.AddResource(mcp.NewResource("test://static-binary", "static-binary", mcp.WithMIMEType("image/png")), func(context.Context, mcp.ReadResourceRequest) ([]mcp.ResourceContents, error) {
		return []mcp.ResourceContents{mcp.BlobResourceContents{URI: "test://static-binary", MIMEType: "image/png", Blob: pixel}}, nil
	})
	s.AddResourceTemplate(mcp.NewResourceTemplate("test://template/{id}/data", "template", mcp.WithTemplateMIMEType("application/json")), func(_ context.Context, r mcp.ReadResourceRequest) ([]mcp.ResourceContents, error) {
		id := strings.TrimSuffix(strings.TrimPrefix(r.Params.URI, "test://template/"), "/data")
		return []mcp.ResourceContents{mcp.TextResourceContents{URI: r.Params.URI, MIMEType: "application/json", Text: fmt.Sprintf(`{"id":%q,"templateTest":true,"data":"Data for ID: %s"}`, id, id)}}, nil
	})
}
