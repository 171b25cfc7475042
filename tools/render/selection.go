package render

import (
	"context"
	"encoding/base64"
	"fmt"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// valueSelection chooses the values (displays and results) and the error that one answer shows. The last error has priority,
// then the last result, then the newest of the other values.
type valueSelection struct {
	left    int // bytes of text that the answer can still take
	skipped int // displays and results that are not shown
	errors  int // errors that are not shown
}

// pictureSelection chooses the pictures that one answer shows: the first maxImages pictures that can be shown.
type pictureSelection struct {
	decoder  *Pictures
	sandbox  sandbox.ID
	pictures int // pictures that add has not handled yet
	tried    int // pictures that add has handled
	shown    int
	used     int // bytes of base64 in the shown pictures
}

// value is a display or a result, and the pieces of the answer's text that show it.
type value struct {
	label  string
	data   map[string]string
	note   string            // a note about the value's picture
	image  *mcp.ImageContent // the value's picture; nil: the answer does not show it
	pieces []piece
}

const (
	maxTried     = 8   // pictures that are decoded for one answer
	maxCountNote = 200 // bytes of a note about values or errors that are not shown
	cutNote      = 120 // bytes of a note about the omitted middle of a text
)

// choose sets the image and note of each value that has a picture. After maxTried pictures it leaves the other values
// unchanged.
func (s *pictureSelection) choose(ctx context.Context, values []*value) {
	for _, v := range values {
		if imageType(v.data) != "" {
			s.pictures++
		}
	}
	for _, v := range values {
		if mime := imageType(v.data); mime != "" && s.tried < maxTried {
			v.note, v.image = s.add(ctx, v.label, v.data[mime])
		}
	}
}

// choose sets the pieces of the values that fit into the answer, and counts the others in g.skipped.
func (g *valueSelection) choose(values []*value) {
	for _, v := range values {
		if v.image != nil {
			g.left -= len(v.note) + 1
		}
	}
	result := -1
	for i, v := range values {
		if v.label == string(sandbox.EventResult) {
			result = i
		}
	}
	if result >= 0 {
		g.fitValue(values[result])
	}
	for i := len(values) - 1; i >= 0; i-- {
		if i != result {
			g.fitValue(values[i])
		}
	}
}

// fitValue sets the pieces of a value if they fit into g.left bytes. Otherwise it counts the value as skipped. If the
// value's picture is shown, choose has subtracted the note's length from g.left already.
func (g *valueSelection) fitValue(v *value) {
	switch {
	case v.image != nil: // the text of a value with a picture is useless, such as <Figure …>, and is left out
		v.pieces = []piece{{note: v.note}}
		return
	case g.left > 0 && (v.note != "" || v.label == string(sandbox.EventResult) || imageType(v.data) == ""):
		v.pieces = g.text(v)
	}
	if n := cost(v.pieces); n <= g.left && v.pieces != nil {
		g.left -= n
		return
	}
	v.pieces = nil
	g.skipped++
}

// traceback returns the pieces for an error and subtracts their cost from g.left.
func (g *valueSelection) traceback(e *sandbox.CodeError) []piece {
	if e == nil {
		return nil
	}
	text := e.Traceback
	if text == "" {
		text = e.Name + ": " + e.Message
	}
	pieces := g.cut("error", text, maxTracebackText)
	g.left -= cost(pieces)
	return pieces
}

// cut returns the pieces for a text. It omits the middle of the text if the text has more than maximum bytes, or if the
// pieces would need more than g.left bytes. It returns nil if fewer than cutNote bytes of the text would be left,
// because so little is not useful.
func (g *valueSelection) cut(label, text string, maximum int) []piece {
	block := cost([]piece{{label: label}})
	if whole := cutPiece(label, text, min(maximum, g.left-block)); len(whole) == 1 {
		return whole
	}
	remaining := min(maximum, g.left-2*block-cutNote)
	if remaining < cutNote {
		return nil
	}
	return cutPiece(label, text, remaining)
}

// rest returns notes that count the values and errors that are not shown.
func (g *valueSelection) rest() (notes []piece) {
	if g.errors > 0 {
		notes = append(notes, piece{note: fmt.Sprintf("[The code reported %d more errors before the last one. They are not shown: print the important ones]", g.errors)})
	}
	if g.skipped > 0 {
		notes = append(notes, piece{note: fmt.Sprintf("[%d more displays not shown: show fewer in one execution, or save images to files and read_file them]", g.skipped)})
	}
	return notes
}

// text returns the pieces for a value without a picture, or whose picture is not shown: the note about the picture, if
// any, and the most readable of the value's texts. It returns nil if the text does not fit.
func (g *valueSelection) text(v *value) []piece {
	var pieces []piece
	if v.note != "" {
		pieces = append(pieces, piece{note: v.note})
	}
	s, mime := readable(v.data)
	label, maximum := v.label, maxResultText
	if label != string(sandbox.EventResult) {
		maximum = maxDisplayText
	}
	if note := browserOnly(v.data, mime); note != "" {
		return append(pieces, piece{note: label + ": " + note})
	}
	switch {
	case len(pieces) > 0 && (s == "" || isRepr(s)):
		return pieces
	case s == "":
		return []piece{{note: fmt.Sprintf("%s: %s, which has no text to show; write it to a file to keep it", label, otherTypes(v.data))}}
	case mime != "text/plain":
		label += " (" + mime + ")"
	}
	if text := g.cut(label, s, maximum); text != nil {
		return append(pieces, text...)
	}
	return nil
}

// add decodes a picture. It returns a note about the picture, and the picture itself if the answer can show it. text is
// the picture in base64.
func (s *pictureSelection) add(ctx context.Context, label, text string) (note string, image *mcp.ImageContent) {
	s.tried++
	s.pictures--
	number := s.shown + 1
	why := ""
	if number > maxImages {
		s.tried = maxTried // so that choose tries no further pictures
		why = fmt.Sprintf("an answer has at most %d", maxImages)
	} else if raw, err := base64.StdEncoding.DecodeString(text); err != nil {
		why = "it is not valid base64"
	} else {
		waiting := min(maxImages-s.shown, s.pictures+1)
		p, err := s.decoder.fit(ctx, raw, (maxImagesBytes-s.used)/waiting)
		if err == nil {
			s.used += len(p.content.Data)
			s.shown++
			note = fmt.Sprintf("%s: image %d below, %d×%d pixels", label, number, p.width, p.height)
			if p.note != "" {
				note += ", " + p.note
			}
			return note, &p.content
		}
		why = err.Error()
	}
	return fmt.Sprintf("%s: an image that is not shown: %s. Code can save it to a file, such as plot.png; read_file(sandbox_id=%q, path=\"plot.png\") shows that.", label, why, s.sandbox), nil
}

// cutPiece returns the pieces for a value's text. If the text has more than maximum bytes, cutPiece replaces the middle of
// the text by a note. The note is a piece of its own outside of the fences, so that no program can fake a note.
func cutPiece(label, raw string, maximum int) []piece {
	maximum = max(maximum, 0)
	if len(raw) <= maximum {
		if s := breakBackticks(cleanText(raw)); len(s) <= maximum {
			return []piece{{label: label, text: s}}
		}
	}
	// The text is cut before it is cleaned, so that the number of missing bytes is correct and only the shown parts are
	// cleaned.
	for keep := min(maximum, len(raw)); ; keep = keep * 3 / 4 {
		head, tail := cutHead(raw, keep*3/10), cutTail(raw, keep*7/10)
		missing := int64(len(raw) - len(head) - len(tail))
		head, tail = breakBackticks(cleanText(head)), breakBackticks(cleanText(tail))
		if keep > 0 && len(head)+len(tail) > maximum {
			continue
		}
		return []piece{
			{label: label, text: head},
			{note: fmt.Sprintf("[%s of the %s not shown: print a part of it, or write it to a file]", Bytes(missing), label)},
			{label: label, text: tail},
		}
	}
}
