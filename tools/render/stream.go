package render

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// piece is a part of an answer: printed text, a gap in it, a note, or the text of a value or an error. Pieces are in
// the order in which the program produced them.
type piece struct {
	label  string // stdout, stderr, result, display, error, or "" for a gap or a note
	stream bool   // the piece is printed text, which may be cut
	gap    bool
	note   string // Dormouse's own text, instead of the program's text

	text   string
	offset int64 // how many bytes the execution printed before this piece

	missing int64 // in a gap: the number of bytes that are not shown
	gone    int64 // in a gap: how many of the missing bytes were not stored
}

// Limits that determine how printed text is cut and in which order it is shown.
const (
	headShare       = 0.3 // if printed text is cut, the part of the kept bytes that comes from its beginning
	maxAlternations = 24  // the maximum number of pieces of printed text that are shown in their original order
	maxGaps         = 3   // the maximum number of gaps that are shown separately
)

// mergeGaps keeps the first maxGaps gaps and adds all later gaps to the last of them, because each gap needs a line in
// the answer.
func mergeGaps(pieces []piece) []piece {
	out, gaps, last := make([]piece, 0, len(pieces)), 0, -1
	for _, p := range pieces {
		if p.gap {
			if gaps++; gaps > maxGaps {
				out[last].missing += p.missing
				out[last].gone += p.gone
				continue
			}
			last = len(out)
		}
		out = append(out, p)
	}
	return out
}

// cleanStreams makes printed text safe to show, and removes printed text that is then empty.
func cleanStreams(pieces []piece) []piece {
	out := make([]piece, 0, len(pieces))
	for _, p := range pieces {
		if p.stream {
			p.text = cleanText(collapseReturns(p.text))
			if p.text == "" {
				continue
			}
		}
		out = append(out, p)
	}
	return out
}

// cutStreams keeps limit bytes of the printed text: headShare of them from its beginning and the others from its end.
// It replaces the text between these two parts by one gap. Gaps that were in the replaced text become part of this gap.
func cutStreams(pieces []piece, limit int) []piece {
	total := 0
	for _, p := range pieces {
		if p.stream {
			total += len(p.text)
		}
	}
	if total <= limit {
		return slices.Clone(pieces)
	}
	head := int(float64(limit) * headShare)
	tail := total - (limit - head) // the kept end of the text begins at this byte

	var out []piece
	hole := -1 // the index in out of the gap for the removed text; -1: out does not contain that gap yet
	at := 0    // the number of bytes of printed text before the piece p
	for _, p := range pieces {
		switch {
		case p.gap && at >= head && at <= tail:
			// The gap p lies in the removed text or next to it, so it becomes part of the gap for the removed text.
			if hole < 0 {
				hole = len(out)
				out = append(out, p)
				continue
			}
			out[hole].missing += p.missing
			out[hole].gone += p.gone
		case !p.stream:
			out = append(out, p)
		default:
			start, end := at, at+len(p.text)
			at = end
			keepHead, keepTail := clamp(head-start, len(p.text)), clamp(tail-start, len(p.text))
			for keepHead > 0 && keepHead < len(p.text) && !utf8.RuneStart(p.text[keepHead]) {
				keepHead--
			}
			for keepTail < len(p.text) && !utf8.RuneStart(p.text[keepTail]) {
				keepTail++
			}
			if keepHead > 0 {
				out = append(out, p.slice(0, keepHead))
			}
			if dropped := keepTail - keepHead; dropped > 0 {
				if hole < 0 {
					hole = len(out)
					out = append(out, piece{gap: true, offset: p.offset + int64(keepHead)})
				}
				out[hole].missing += int64(dropped)
			}
			if keepTail < len(p.text) && keepTail >= keepHead && end > tail {
				out = append(out, p.slice(keepTail, len(p.text)))
			}
		}
	}
	return out
}

func (p piece) slice(from, to int) piece {
	p.text, p.offset = p.text[from:to], p.offset+int64(from)
	return p
}

func clamp(n, maximum int) int { return min(max(n, 0), maximum) }

// groupStreams puts all text of stdout first, then all text of stderr, and then the other pieces, if there are more than
// maxAlternations pieces of printed text. In their original order nearly each line would need a label, and the labels would
// be longer than the lines. alternations is the number of pieces that were grouped, or 0 if nothing was grouped.
func groupStreams(pieces []piece) (out []piece, alternations int) {
	streams := 0
	for _, p := range pieces {
		if p.stream {
			streams++
		}
	}
	if streams <= maxAlternations {
		return pieces, 0
	}
	byLabel := map[string]*strings.Builder{"stdout": {}, "stderr": {}}
	for _, p := range pieces {
		switch {
		case p.stream:
			byLabel[p.label].WriteString(p.text)
		case p.gap: // the position of a gap in each stream is unknown, so the gap comes after both streams
			for _, b := range byLabel {
				if b.Len() > 0 && !strings.HasSuffix(b.String(), "\n") {
					b.WriteByte('\n')
				}
			}
			out = append(out, p)
		default:
			out = append(out, p)
		}
	}
	var grouped []piece
	for _, label := range []string{"stdout", "stderr"} {
		if b := byLabel[label]; b.Len() > 0 {
			grouped = append(grouped, piece{label: label, stream: true, text: b.String()})
		}
	}
	return append(grouped, out...), streams
}
