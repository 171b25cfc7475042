package render

import (
	"context"
	"slices"
	"strings"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

const minPage = 500 // a page whose budget is below this number of bytes is not cut further

// pageText returns the answer's text about one page of the output, and sets r.images. left is how many bytes of the answer
// are left for the page. If the page does not fit, pageText cuts it, and the next page begins at the cut.
func (r *rendering) pageText(ctx context.Context, left int, pictures *Pictures) string {
	events, next := firstPage(r.ex)
	budget := left
	if hasValues(events) {
		budget -= streamReserve
	}
	events, next = fitPage(events, next, budget)
	r.choosePictures(ctx, events, pictures)
	for {
		r.gather(events, min(left-printedCost(events), valuesBudget))
		r.next = r.nextLine(next)
		text := r.compose(0)
		if len(text) <= answerBudget || budget < minPage {
			return text
		}
		budget = budget * 3 / 4 // labels and fences of values between printed text made the answer too long
		events, next = fitPage(events, next, budget)
	}
}

// firstPage returns the events of an execution's window up to the first text that the window omitted, and the offset of the
// next page. The next page shows the omitted text, so the client reads it before any later event.
func firstPage(ex sandbox.Execution) ([]sandbox.Event, int64) {
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
