package render

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
)

// Limits of single values, in bytes. All values together are limited by valuesBudget.
const (
	maxResultText    = 4000
	maxDisplayText   = 2000
	maxTracebackText = 4000
)

// readableTypes are the MIME types of text that is shown to a model, the most readable ones first.
var readableTypes = []string{"text/plain", "text/markdown", "application/json", "text/latex", "text/html", "image/svg+xml"}

// bareObject matches a text/plain that contains only the name of the value's class, such as "<IPython.core.display.HTML
// object>" or "<pandas.io.formats.style.Styler at 0x7f…>".
var bareObject = regexp.MustCompile(`^<[\w.]+( object| at 0x[0-9a-f]+| object at 0x[0-9a-f]+)>$`)

// readable returns the most readable text of a rich value, and its MIME type. It prefers any other text to a
// bareObject. If the value has no text, both are empty.
func readable(data map[string]string) (text, mime string) {
	plain := data[readableTypes[0]]
	if plain != "" && !bareObject.MatchString(plain) {
		return plain, readableTypes[0]
	}
	for _, mime := range readableTypes[1:] {
		if s := data[mime]; s != "" {
			return s, mime
		}
	}
	if plain != "" {
		return plain, readableTypes[0]
	}
	return "", ""
}

const plotlyType = "application/vnd.plotly.v1+json"

var traceType = regexp.MustCompile(`^[a-z0-9]{1,30}$`)

// browserOnly returns a description of a value that only a browser can show, or "" for other values. The text of such a
// value, a plotly figure or long HTML with a script, would be useless to a model. The parameter shown is the MIME type of
// the text that the answer would otherwise contain. If it is not text/html, browserOnly ignores the value's HTML.
func browserOnly(data map[string]string, shown string) string {
	if figure := data[plotlyType]; figure != "" {
		return plotly(figure)
	}
	if html := data["text/html"]; shown == "text/html" && len(html) > maxDisplayText && strings.Contains(html, "<script") {
		return fmt.Sprintf("HTML of %s with scripts, which only a browser can show. Code can write it to a file to keep it; use matplotlib for a picture.", Bytes(int64(len(html))))
	}
	return ""
}

func plotly(text string) string {
	const maxJSONValues = 1 << 20
	if wire.CheckShape([]byte(text), maxJSONValues) != nil {
		return "a large plotly figure. Only a browser can draw it: use matplotlib for a picture, or fig.write_html('plot.html') for a file."
	}
	var figure struct {
		Data []struct{ Type string }
	}
	_ = json.Unmarshal([]byte(text), &figure) // if a value has an unexpected type, figure still has the other values
	var types []string
	for _, trace := range figure.Data {
		if traceType.MatchString(trace.Type) && !slices.Contains(types, trace.Type) && len(types) < 5 {
			types = append(types, trace.Type)
		}
	}
	s := fmt.Sprintf("a plotly figure with %d traces", len(figure.Data))
	if len(figure.Data) == 1 {
		s = "a plotly figure with 1 trace"
	}
	if len(types) > 0 {
		s += " (" + strings.Join(types, ", ") + ")"
	}
	return s + ". Only a browser can draw it: use matplotlib for a picture, or fig.write_html('plot.html') for a file."
}

// otherTypes lists the first five MIME types of a value that has no readable text, with their sizes.
func otherTypes(data map[string]string) string {
	var names []string
	for _, mime := range slices.Sorted(maps.Keys(data)) {
		names = append(names, fmt.Sprintf("%s (%s)", oneLine(mime, 60), Bytes(int64(len(data[mime])))))
		if len(names) == 5 {
			break
		}
	}
	return strings.Join(names, ", ")
}

// imageType returns the MIME type of a value's picture, or "" if it has none.
func imageType(data map[string]string) string {
	for _, mime := range []string{"image/png", "image/jpeg"} {
		if data[mime] != "" {
			return mime
		}
	}
	return ""
}

// isRepr reports whether a text looks like <Figure size 640x480 with 1 Axes>, which is useless next to the picture
// itself.
func isRepr(s string) bool {
	return len(s) < 200 && strings.HasPrefix(s, "<") && strings.HasSuffix(s, ">") && !strings.Contains(s, "\n")
}
