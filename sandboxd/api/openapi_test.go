package api_test

import (
	"encoding/json"
	"html"
	"reflect"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/api"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

type openAPI struct {
	Paths      map[string]map[string]json.RawMessage
	Components struct {
		Schemas map[string]struct {
			Required   []string
			Properties map[string]json.RawMessage
		}
	}
}

func document(t *testing.T) (doc openAPI) {
	t.Helper()
	must(t, json.Unmarshal(api.OpenAPI(), &doc))
	return doc
}

// TestOpenAPIHasTheRoutes checks that the document has all routes and no others.
func TestOpenAPIHasTheRoutes(t *testing.T) {
	var documented []string
	for path, operations := range document(t).Paths {
		for method := range operations {
			documented = append(documented, strings.ToUpper(method)+" "+path)
		}
	}
	var served []string
	for _, r := range api.Routes() {
		served = append(served, strings.TrimSuffix(r, "{$}"))
	}
	sort.Strings(documented)
	sort.Strings(served)
	equal(t, "documented routes", documented, served)
}

// TestOpenAPIHasTheParameters checks that the document and the routes have the same parameters.
func TestOpenAPIHasTheParameters(t *testing.T) {
	h := handler(newMemory(t))
	for path, operations := range document(t).Paths {
		for method, operation := range operations {
			var op struct {
				Parameters []struct{ Name, In string }
			}
			must(t, json.Unmarshal(operation, &op))
			var query []string
			for _, p := range op.Parameters {
				if p.In == "path" && !strings.Contains(path, "{"+p.Name+"}") {
					t.Errorf("%s has no %s", path, p.Name)
				}
				if p.In == "query" {
					query = append(query, p.Name)
				}
			}
			w := raw(t, h, strings.ToUpper(method), path+"?nonsense=1", "")
			if w.Code != 400 {
				continue // the route ignores query parameters
			}
			for _, name := range query {
				if !strings.Contains(w.Body.String(), name) {
					t.Errorf("%s %s does not read %s: %s", method, path, name, w.Body)
				}
			}
			if len(query) == 0 && !strings.Contains(w.Body.String(), "this route has none") {
				t.Errorf("%s %s reads parameters that are not documented: %s", method, path, w.Body)
			}
		}
	}
}

// TestOpenAPIHasTheFields checks that each schema in the document has exactly the fields of its Go type.
func TestOpenAPIHasTheFields(t *testing.T) {
	doc := document(t)
	values := []any{
		sandbox.CreateRequest{}, sandbox.UpdateRequest{}, sandbox.ExecuteRequest{}, sandbox.Sandbox{}, sandbox.Page{}, sandbox.Limits{},
		sandbox.Usage{}, sandbox.Kernel{}, sandbox.KernelDeath{}, sandbox.Execution{}, sandbox.Interlude{}, sandbox.CodeError{}, sandbox.Event{}, sandbox.File{},
		sandbox.OmittedFile{}, sandbox.Error{}, api.FileList{}, api.Info{}, api.Defaults{}, api.RequestLimits{}, api.Status{},
	}
	for _, v := range values {
		typ := reflect.TypeOf(v)
		schema, ok := doc.Components.Schemas[typ.Name()]
		if !ok {
			t.Errorf("%s is not documented", typ.Name())
			continue
		}
		var want, required, got []string
		for _, f := range reflect.VisibleFields(typ) {
			name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "" {
				continue
			}
			want = append(want, name)
			if options == "" {
				required = append(required, name)
			}
		}
		for name := range schema.Properties {
			got = append(got, name)
		}
		for _, names := range [][]string{want, required, got, schema.Required} {
			slices.Sort(names)
		}
		equal(t, "fields of "+typ.Name(), got, want)
		equal(t, "required fields of "+typ.Name(), schema.Required, required)
	}
	if n := len(values) + 1; len(doc.Components.Schemas) != n { // the document has one more schema, Failure, which only wraps Error
		t.Errorf("%d values are documented, want %d", len(doc.Components.Schemas), n)
	}
}

// TestOpenAPIHasTheLanguages checks that each enum of languages in the document lists all of them.
func TestOpenAPIHasTheLanguages(t *testing.T) {
	enums := regexp.MustCompile(`"enum": (\[[^\]]*"python"[^\]]*\])`).FindAllSubmatch(api.OpenAPI(), -1)
	if len(enums) == 0 {
		t.Fatal("the document has no enum with python, want some")
	}
	for _, enum := range enums {
		var got []sandbox.Language
		must(t, json.Unmarshal(enum[1], &got))
		equal(t, "enum of languages", got, sandbox.Languages)
	}
}

// TestDocsPage checks that the page documents all routes, and that it loads nothing from other servers.
func TestDocsPage(t *testing.T) {
	w := raw(t, handler(newMemory(t)), "GET", "/v1/", "")
	page := w.Body.String()
	for _, r := range api.Routes() {
		method, path, _ := strings.Cut(strings.TrimSuffix(r, "{$}"), " ")
		if !strings.Contains(page, `id="`+method+" "+path+`"`) {
			t.Errorf("the page lacks %s", r)
		}
	}
	for _, foreign := range []string{"http://", "https://", "<script", "no value"} {
		if strings.Contains(page, foreign) {
			t.Errorf("the page has %q", foreign)
		}
	}
	// The template adds the full stop after a summary, so summaries must not have one.
	text := html.UnescapeString(regexp.MustCompile(`<[^>]*>`).ReplaceAllString(page[strings.Index(page, "<h1>"):], ""))
	if twice := regexp.MustCompile(`.{0,30}[.?,:;]\s*[.,?;]`).FindAllString(text, -1); twice != nil {
		t.Errorf("the page has two marks in a row: %q", twice)
	}
	if !strings.Contains(w.Header().Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("Content-Security-Policy = %q", w.Header().Get("Content-Security-Policy"))
	}
}
