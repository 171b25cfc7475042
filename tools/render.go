package tools

import (
	"fmt"
	"strings"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// view is what an answer about an execution is besides the execution.
type view struct {
	fresh  bool // the call made the sandbox
	again  bool // the request_id had been seen
	paging bool // the call gave an offset: a page, in sequence
}

// renderExecution writes an execution for a model: one text, then at most four
// pictures. There is no structured content, because clients that find some show the
// model nothing else.
func (t *toolset) renderExecution(ex sandbox.Execution, v view) *mcp.CallToolResult {
	r := &rendering{ex: ex, view: v}
	events, next := page(ex, v.paging)
	r.gather(events, t.images)

	late := r.late()
	fixed := 0
	for _, p := range append(late, r.pieces...) {
		if !p.stream {
			fixed += len(p.text)
		}
	}
	budget := max(minStreamBudget, textBudget-fixed)
	if v.paging {
		budget = pageBudget
	}
	pieces := fitStreams(r.pieces, budget, v.paging)
	if last := len(pieces) - 1; v.paging && last >= 0 && pieces[last].gap && pieces[last].missing > pieces[last].gone {
		next = min(next, pieces[last].offset) // cleaning made the page too long for one answer
	}
	pieces, alternations := groupStreams(pieces)

	w := &writer{fence: fence(append(late, pieces...))}
	w.line("%s", statusLine(ex, v.fresh, time.Now()))
	for _, s := range losses(ex.Interlude) {
		w.line("%s", s)
	}
	if v.fresh {
		w.line("The sandbox is new: pass sandbox_id=%q in later calls to go on in it.", ex.SandboxID)
	}
	if v.again {
		w.line("This request_id had been used before: this is what became of its execution, and nothing was run again.")
	}
	r.body(w, pieces, alternations)
	r.write(w, late)
	r.files(w)
	r.next(w, next)
	return &mcp.CallToolResult{Content: append([]mcp.Content{textContent(w.String())}, r.images...)}
}

// page returns the events that an answer shows and the offset where the next begins.
// A page in sequence leaves out what comes after text that is still to be read.
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

// wholeLines ends a page behind a line, unless that line is very long: an answer
// cannot show whether its last line goes on.
func wholeLines(events []sandbox.Event, next int64) ([]sandbox.Event, int64) {
	const mostGivenBack = 2000
	last := len(events) - 1
	if last < 0 || events[last].Text == "" {
		return events, next
	}
	e := events[last]
	rest := len(e.Text) - 1 - strings.LastIndexByte(e.Text, '\n')
	if rest == 0 || rest >= min(len(e.Text), mostGivenBack) {
		return events, next
	}
	e.Text = e.Text[:len(e.Text)-rest]
	return append(events[:last:last], e), next - int64(rest)
}

// rendering collects what goes into an answer.
type rendering struct {
	ex     sandbox.Execution
	view   view
	pieces []piece
	images []mcp.Content
}

// gather turns events into pieces and pictures.
func (r *rendering) gather(events []sandbox.Event, shop imageShop) {
	show := &gallery{shop: shop, sandbox: r.ex.SandboxID}
	for _, e := range events {
		if b, _ := imageData(e.Data); b != nil {
			show.expected++
		}
	}
	failed := false
	for _, e := range events {
		switch e.Type {
		case sandbox.EventStdout, sandbox.EventStderr:
			r.print(string(e.Type), e)
		case sandbox.EventOmitted:
			p := piece{gap: true, offset: e.Offset, missing: e.Bytes}
			if e.Reason == sandbox.OmittedByLimit {
				p.gone = e.Bytes
			}
			r.pieces = append(r.pieces, p)
		case sandbox.EventDisplay:
			r.pieces = append(r.pieces, show.display(e.Data)...)
		case sandbox.EventResult:
			r.pieces = append(r.pieces, show.rich(string(e.Type), e.Data)...)
		case sandbox.EventError:
			failed = true
			r.pieces = append(r.pieces, traceback(r.ex.Error)...)
		}
	}
	if !failed && !r.view.paging {
		r.pieces = append(r.pieces, traceback(r.ex.Error)...)
	}
	r.pieces = append(r.pieces, show.rest()...)
	r.images = show.contents
}

// print adds printed text, joined with what the same stream printed just before.
func (r *rendering) print(label string, e sandbox.Event) {
	if n := len(r.pieces); n > 0 {
		last := &r.pieces[n-1]
		if last.stream && last.label == label && last.offset+int64(len(last.text)) == e.Offset {
			last.text += e.Text
			return
		}
	}
	r.pieces = append(r.pieces, piece{label: label, stream: true, text: e.Text, offset: e.Offset})
}

func traceback(e *sandbox.CodeError) []piece {
	if e == nil {
		return nil
	}
	text := e.Traceback
	if text == "" {
		text = e.Name + ": " + e.Message
	}
	return cutPiece("error", cleanText(text), maxTracebackText)
}

// cutPiece is a rich value's text, with its middle left out when it is over most
// bytes. The words about that stand outside the text, where nobody can fake them.
func cutPiece(label, s string, most int) []piece {
	if len(s) <= most {
		return []piece{{label: label, text: s}}
	}
	head, tail := strings.ToValidUTF8(s[:most*3/10], ""), strings.ToValidUTF8(s[len(s)-most*7/10:], "")
	missing := int64(len(s) - len(head) - len(tail))
	return []piece{
		{label: label, text: head},
		{note: fmt.Sprintf("[%s of the %s not shown: print a part of it, or write it to a file]", bytesOf(missing), label)},
		{label: label, text: tail},
	}
}

// body writes the pieces.
func (r *rendering) body(w *writer, pieces []piece, alternations int) {
	if alternations > 0 {
		w.line("stdout and stderr alternated %d times and are shown apart.", alternations)
	}
	switch {
	case r.ex.OutputGone && r.ex.Reason != "" && r.ex.State != sandbox.ExecLost: // which has said so
		w.line("[What was printed is gone: %s]", oneLine(r.ex.Reason, 400))
	case r.ex.OutputGone:
		w.line("[What was printed was dropped to make room for newer executions' output.]")
	}
	r.write(w, pieces)
	if len(pieces) == 0 && !r.ex.OutputGone {
		switch {
		case r.view.paging:
			w.line("Nothing new was printed.")
		case !r.ex.State.Final():
			w.line("Nothing was printed so far.")
		default:
			w.line("No output.")
		}
	}
}

func (r *rendering) write(w *writer, pieces []piece) {
	for _, p := range pieces {
		switch {
		case p.gap:
			r.gap(w, p)
		case p.note != "":
			w.line("%s", p.note)
		default:
			w.block(p.label, p.text)
		}
	}
}

// late is what was printed while nothing ran. It comes after the execution's own output, and in other words, so that
// nobody takes the one for the other.
func (r *rendering) late() []piece {
	since := r.ex.Interlude
	if since == nil || since.LateBytes == 0 || r.view.paging {
		return nil
	}
	s := cleanText(collapseReturns(since.LateText))
	note := bytesOf(since.LateBytes) + " had been printed before this execution began, after the one before it had ended, by a thread, a timer or a child process"
	switch {
	case s == "":
		return []piece{{note: "[" + note + ".]"}}
	case since.LateBytes > int64(len(since.LateText)):
		note += ". The last of them"
	}
	return []piece{{note: "[" + note + ":]"}, {label: "not of this execution", text: s}}
}

func (r *rendering) gap(w *writer, p piece) {
	if kept := p.missing - p.gone; kept > 0 && !r.view.paging {
		w.line("[%s not shown: get_execution(execution_id=%q, offset=%d) reads them]", bytesOf(kept), r.ex.ID, p.offset)
	}
	if p.gone > 0 {
		w.line("[%s gone: more was printed than the %d MiB that are kept]", bytesOf(p.gone), sandbox.MaxOutputBytes/sandbox.MiB)
	}
}

const maxFilesListed = 20

// files lists what the execution wrote, with the call that reads it: clients drop
// resource links, and a file that is not named is not found.
func (r *rendering) files(w *writer) {
	if r.view.paging && !r.ex.State.Final() {
		return
	}
	if files := r.ex.Files; len(files) > 0 {
		w.line("Files written; read_file(sandbox_id=%q, path=…) reads one:", r.ex.SandboxID)
		for _, f := range files[:min(len(files), maxFilesListed)] {
			w.line("- %s, %s", quotePath(f.Path), bytesOf(f.Size))
		}
		if more := len(files) - maxFilesListed; more > 0 {
			w.line("- and %d more (list them with code)", more)
		}
	}
	for i, f := range r.ex.FilesOmitted {
		if i == 5 {
			w.line("- and %d more were not listed", len(r.ex.FilesOmitted)-i)
			break
		}
		w.line("- not listed: %s: %s", quotePath(f.Path), oneLine(f.Reason, 200))
	}
}

// next says what to call for more.
func (r *rendering) next(w *writer, offset int64) {
	switch {
	case !r.ex.State.Final():
		w.line("It goes on by itself; do not run it again. get_execution(execution_id=%q, offset=%d) waits for what comes next; interrupt_execution stops it.", r.ex.ID, offset)
	case r.view.paging && offset < r.ex.OutputBytes && !r.ex.OutputGone:
		w.line("%s more: get_execution(execution_id=%q, offset=%d).", bytesOf(r.ex.OutputBytes-offset), r.ex.ID, offset)
	}
}

// writer writes an answer: lines of ours, and blocks of text that is not ours.
type writer struct {
	strings.Builder
	fence string
}

func (w *writer) line(format string, args ...any) {
	fmt.Fprintf(w, format, args...)
	w.WriteByte('\n')
}

func (w *writer) block(label, text string) {
	w.line("%s:\n%s\n%s\n%s", label, w.fence, strings.TrimSuffix(text, "\n"), w.fence)
}

// fence returns a fence that is longer than any run of backticks in the answer, so
// that no text can end its block and go on as if it were ours.
func fence(pieces []piece) string {
	longest := 2
	for _, p := range pieces {
		run := 0
		for i := range len(p.text) {
			if p.text[i] != '`' {
				run = 0
				continue
			}
			run++
			longest = max(longest, run)
		}
	}
	return strings.Repeat("`", longest+1)
}
