package render

import (
	"slices"
	"strings"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

const minPage = 500 // a page whose budget is below this number of bytes is not cut further

// page returns the events that an answer shows, and the offset of the next page. If paging is true, the page ends at
// the first text that the window omitted, so that the client reads that text before any later event.
func page(ex sandbox.Execution, paging bool) ([]sandbox.Event, int64) {
	if !paging {
		return ex.Events, ex.NextOffset
	}
	for i, e := range ex.Events {
		if e.Type == sandbox.EventOmitted && e.Reason == sandbox.OmittedByWindow {
			return wholeLines(ex.Events[:i], e.Offset)
		}
	}
	return ex.Events, ex.NextOffset
}

// wholeLines moves an incomplete last line of a page to the next page, because an answer cannot show that its last line
// is incomplete. A line that is very long or fills the last event stays on the page.
func wholeLines(events []sandbox.Event, next int64) ([]sandbox.Event, int64) {
	const maxMovedBytes = 2000
	last := len(events) - 1
	if last < 0 || events[last].Text == "" {
		return events, next
	}
	e := events[last]
	rest := len(e.Text) - 1 - strings.LastIndexByte(e.Text, '\n')
	if rest == 0 || rest >= min(len(e.Text), maxMovedBytes) {
		return events, next
	}
	e.Text = e.Text[:len(e.Text)-rest]
	return append(events[:last:last], e), next - int64(rest)
}

// hasValues reports whether events contain displays, results or errors.
func hasValues(events []sandbox.Event) bool {
	return slices.ContainsFunc(events, func(e sandbox.Event) bool {
		return e.Type == sandbox.EventDisplay || e.Type == sandbox.EventResult || e.Type == sandbox.EventError
	})
}

// fitPage cuts a page whose printed text would need more than budget bytes of an answer. The next page begins at the
// cut.
func fitPage(events []sandbox.Event, next int64, budget int) ([]sandbox.Event, int64) {
	for limit := budget; printedCost(events) > budget; limit = limit * 3 / 4 {
		events, next = cutPage(events, next, limit)
	}
	return events, next
}

// cutPage keeps limit bytes of printed text, and the other events up to the end of that text.
func cutPage(events []sandbox.Event, next int64, limit int) ([]sandbox.Event, int64) {
	for i, e := range events {
		if len(e.Text) <= limit {
			limit -= len(e.Text)
			continue
		}
		e.Text = cutHead(e.Text, limit)
		return wholeLines(append(events[:i:i], e), e.Offset+int64(len(e.Text)))
	}
	return events, next
}

// printedCost estimates how many bytes the printed text of events needs in an answer's text. It assumes that the answer
// also shows all values between the printed texts.
func printedCost(events []sandbox.Event) int {
	r := &rendering{}
	for _, e := range events {
		if e.Type == sandbox.EventStdout || e.Type == sandbox.EventStderr {
			r.print(string(e.Type), e)
		} else {
			r.add(piece{gap: true})
		}
	}
	r.flush()
	pieces, _ := groupStreams(cleanStreams(r.pieces))
	pieces = slices.DeleteFunc(pieces, func(p piece) bool { return !p.stream })
	for i := range pieces {
		pieces[i].text = breakBackticks(pieces[i].text)
	}
	return cost(pieces)
}
