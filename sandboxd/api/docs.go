package api

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"html/template"
	"net/http"
	"slices"
	"strings"
)

//go:embed openapi.json
var openAPI []byte

//go:embed docs.html
var docsPage string

func (h *Handler) getOpenAPI(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(openAPI) // Write fails only if the client has disconnected
	return nil
}

func (h *Handler) getDocs(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	_, _ = w.Write(h.docs)
	return nil
}

// document is the part of openapi.json that the documentation page shows.
type document struct {
	Info struct {
		Title, Version, Description string
	}
	Paths      map[string]map[string]json.RawMessage
	Components struct {
		Schemas map[string]docSchema
	}
}

type docOperation struct {
	Method, Path string `json:"-"`
	Summary      string
	Description  string
	Parameters   []struct {
		Name, In, Description string
		Required              bool
		Schema                docSchema
	}
	RequestBody *struct {
		Content map[string]struct{ Schema docSchema }
	}
	Responses map[string]struct {
		Description string
		Content     map[string]struct{ Schema docSchema }
	}
}

type docSchema struct {
	Ref         string `json:"$ref"`
	Type        string
	Description string
	Enum        []string
	Items       *docSchema
	Required    []string
	Properties  map[string]docSchema
}

// Name returns a short name of the schema's type.
func (s docSchema) Name() string {
	switch {
	case s.Ref != "":
		return strings.TrimPrefix(s.Ref, "#/components/schemas/")
	case s.Items != nil:
		return "list of " + s.Items.Name()
	}
	return s.Type
}

// renderDocs returns the documentation page. It panics if openapi.json or docs.html is invalid: both are part of this
// program and covered by tests.
func renderDocs() []byte {
	var doc document
	if err := json.Unmarshal(openAPI, &doc); err != nil {
		panic("openapi.json: " + err.Error())
	}
	var ops []docOperation
	for path, methods := range doc.Paths {
		for method, raw := range methods {
			op := docOperation{Method: strings.ToUpper(method), Path: path}
			if err := json.Unmarshal(raw, &op); err != nil {
				panic("openapi.json: " + path + ": " + err.Error())
			}
			ops = append(ops, op)
		}
	}
	slices.SortFunc(ops, func(a, b docOperation) int {
		return strings.Compare(a.Path+" "+a.Method, b.Path+" "+b.Method)
	})
	var page bytes.Buffer
	t := template.Must(template.New("docs").Parse(docsPage))
	if err := t.Execute(&page, map[string]any{"Doc": doc, "Operations": ops}); err != nil {
		panic("docs.html: " + err.Error())
	}
	return page.Bytes()
}
