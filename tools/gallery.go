package tools

import (
	"fmt"
	"strings"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// gallery collects the pictures of one answer and shares the room among them.
type gallery struct {
	shop     imageShop
	sandbox  sandbox.ID
	expected int // pictures that there are
	seen     int
	used     int // bytes of base64
	text     int // bytes of text
	full     bool
	skipped  int
	contents []mcp.Content
}

// display returns the pieces for a display. An answer has room for a few; the rest
// is counted.
func (g *gallery) display(data map[string]string) []piece {
	if _, mime := imageData(data); g.text > maxRichText || g.full && mime != "" {
		g.skipped++
		return nil
	}
	pieces := g.rich(string(sandbox.EventDisplay), data)
	for _, p := range pieces {
		g.text += len(p.text) + len(p.note)
	}
	return pieces
}

// rest says how many displays there was no room for.
func (g *gallery) rest() []piece {
	if g.skipped == 0 {
		return nil
	}
	return []piece{{note: fmt.Sprintf("[%d more displays not shown: show fewer in one execution, or save images to files and read_file them]", g.skipped)}}
}

// rich returns the pieces for a rich value: its picture, else its best text.
func (g *gallery) rich(label string, data map[string]string) []piece {
	var pieces []piece
	raw, mime := imageData(data)
	if mime != "" {
		note, shown := g.add(label, raw)
		pieces = append(pieces, piece{note: note})
		if shown {
			return pieces // its text says no more than <Figure …>
		}
	}
	s, mime := readable(data)
	most := maxResultText
	if label != string(sandbox.EventResult) {
		most = maxDisplayText
	}
	if note := browserOnly(data, mime); note != "" {
		return append(pieces, piece{note: label + ": " + note})
	}
	switch {
	case len(pieces) > 0 && (s == "" || isRepr(s)):
		return pieces
	case s == "":
		return []piece{{note: fmt.Sprintf("%s: %s, which has no text to show; write it to a file to keep it", label, otherTypes(data))}}
	case mime != "text/plain":
		label += " (" + mime + ")"
	}
	return append(pieces, cutPiece(label, cleanText(s), most)...)
}

// isRepr reports text such as <Figure size 640x480 with 1 Axes>, which says nothing.
func isRepr(s string) bool {
	return len(s) < 200 && strings.HasPrefix(s, "<") && strings.HasSuffix(s, ">") && !strings.Contains(s, "\n")
}

// add takes a picture in if there is room, and says what became of it.
func (g *gallery) add(label string, raw []byte) (note string, shown bool) {
	g.seen++
	number := len(g.contents) + 1
	why := ""
	switch {
	case raw == nil:
		why = "it is not valid base64"
	case number > maxImages:
		g.full = true
		why = fmt.Sprintf("an answer has at most %d", maxImages)
	default:
		waiting := max(1, min(maxImages-len(g.contents), g.expected-g.seen+1))
		p, err := g.shop.fit(raw, (maxImagesBytes-g.used)/waiting)
		if err == nil {
			g.used += len(p.content.Data)
			g.contents = append(g.contents, p.content)
			note = fmt.Sprintf("%s: image %d below, %d×%d pixels", label, number, p.width, p.height)
			if p.note != "" {
				note += ", " + p.note
			}
			return note, true
		}
		why = err.Error()
	}
	return fmt.Sprintf("%s: an image that is not shown: %s. Code can save it to a file, such as plot.png; read_file(sandbox_id=%q, path=\"plot.png\") shows that.", label, why, g.sandbox), false
}
