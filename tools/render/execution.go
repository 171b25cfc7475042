package render

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// View describes the call that an answer about an execution is for.
type View struct {
	NewSandbox bool // the call created the sandbox
	Again      bool // an earlier call with the same request_id started the execution
	Paging     bool // the call has an offset, so the answer shows one page of the output
}

// Limits of an answer's text, in bytes. Agents truncate long results, each in its own way. answerBudget keeps an answer
// below their limits: it limits the whole text of an answer about an execution, including status lines, labels and
// fences.
const (
	answerBudget  = 10_000
	filesBudget   = 1_200 // the list of files
	lateBudget    = 2_000 // the text that was printed while no execution ran
	valuesBudget  = 6_000 // results, displays and errors together
	streamReserve = 3_000 // printed text that has priority over values
	nextReserve   = 300   // the line that suggests the next call
	gapReserve    = 600   // the lines about missing text
)

// Execution returns an execution as a tool result: one text, then at most four pictures. The result has no structured
// content, because some clients show the model only the structured content of a result that has any.
func Execution(ctx context.Context, ex sandbox.Execution, v View, pictures *Pictures) *mcp.CallToolResult {
	r := &rendering{ex: ex, view: v, head: headLines(ex, v)}
	r.files = r.fileLines()
	r.late = r.latePieces()
	left := answerBudget - len(r.head) - len(r.files) - cost(r.late) - nextReserve - gapReserve
	text := ""
	if v.Paging {
		text = r.pageText(ctx, left, pictures)
	} else {
		text = r.wholeText(ctx, left, pictures)
	}
	return &mcp.CallToolResult{Content: append([]mcp.Content{textContent(text)}, r.images...)}
}

// wholeText returns the answer's text about the whole output so far, and sets r.images. left is how many bytes of the answer
// are left for the output.
func (r *rendering) wholeText(ctx context.Context, left int, pictures *Pictures) string {
	events := r.ex.Events
	r.choosePictures(ctx, events, pictures)
	r.gather(events, min(left-min(streamReserve, printedCost(events)), valuesBudget))
	r.next = r.nextLine(r.ex.NextOffset)
	return r.fit()
}

// headLines returns the lines before an execution's output. They describe the state of the execution, how it ended, and
// variables and files that were lost before it.
func headLines(ex sandbox.Execution, v View) string {
	w := &writer{}
	w.line("%s", StatusLine(ex, v.NewSandbox, time.Now()))
	for _, s := range losses(ex.Interlude) {
		w.line("%s", s)
	}
	if v.NewSandbox {
		w.line("The sandbox is new: pass sandbox_id=%q in later calls to go on in it.", ex.SandboxID)
	}
	if v.Again {
		w.line("An earlier call with this request_id started this execution. The code was not run again.")
	}
	return w.String()
}

// fit returns the answer's text with as much of the printed text as fits into answerBudget.
func (r *rendering) fit() string {
	printed := 0
	for _, p := range r.pieces {
		if p.stream {
			printed += len(p.text)
		}
	}
	text := r.compose(printed)
	if len(text) <= answerBudget {
		return text
	}
	fixed := len(r.compose(0))
	limit := min(printed, answerBudget-fixed)
	for range 8 {
		if text = r.compose(max(limit, 0)); len(text) <= answerBudget {
			return text
		}
		// Labels and escapes made the printed text longer than limit, so the next attempt keeps less of it.
		limit = limit * (answerBudget - fixed) / (len(text) - fixed + 1)
	}
	return r.compose(max(limit, 0) / 4)
}

// compose returns the answer's text with limit bytes of printed text. For a page it ignores limit: fitPage has cut the
// page already.
func (r *rendering) compose(limit int) string {
	pieces := r.pieces
	if !r.view.Paging {
		pieces = cutStreams(pieces, limit)
	}
	pieces, alternations := groupStreams(cleanStreams(mergeGaps(pieces)))
	for i := range pieces {
		pieces[i].text = breakBackticks(pieces[i].text)
	}
	w := &writer{fence: fence(slices.Concat(r.late, pieces))}
	w.WriteString(r.head)
	r.body(w, pieces, alternations)
	r.write(w, r.late)
	w.WriteString(r.files)
	w.WriteString(r.next)
	return w.String()
}

// rendering collects the parts of an answer about an execution.
type rendering struct {
	ex     sandbox.Execution
	view   View
	head   string
	pieces []piece
	late   []piece
	files  string
	next   string
	values map[int]*value // displays and results by their index in the events
	images []mcp.Content

	run strings.Builder // printed text that print has collected; flush makes it the text of the last piece
}

// choosePictures decides which pictures of events the answer shows. It decodes each picture in a separate process, which is
// slow. Therefore Execution calls it once for an answer, before the first call of gather.
func (r *rendering) choosePictures(ctx context.Context, events []sandbox.Event, pictures *Pictures) {
	r.values = map[int]*value{}
	var values []*value // in the order of events
	for i, e := range events {
		if e.Type == sandbox.EventDisplay || e.Type == sandbox.EventResult {
			r.values[i] = &value{label: string(e.Type), data: e.Data}
			values = append(values, r.values[i])
		}
	}
	s := &pictureSelection{decoder: pictures, sandbox: r.ex.SandboxID}
	s.choose(ctx, values)
}

// gather sets r.pieces and r.images from events. Displays, results and errors together get budget bytes; the newest
// ones have priority. The events must be those that choosePictures was called with, or the beginning of that list.
func (r *rendering) gather(events []sandbox.Event, budget int) {
	r.pieces, r.images = nil, nil
	show := &valueSelection{left: budget - 2*maxCountNote}
	var values []*value // in the order of events
	lastError := -1
	for i, e := range events {
		switch e.Type {
		case sandbox.EventDisplay, sandbox.EventResult:
			v := r.values[i]
			v.pieces = nil
			values = append(values, v)
			if v.image != nil {
				r.images = append(r.images, *v.image)
			}
		case sandbox.EventError:
			if lastError >= 0 {
				show.errors++
			}
			lastError = i
		}
	}
	var failure []piece
	if lastError >= 0 || !r.view.Paging {
		failure = show.traceback(r.ex.Error)
	}
	show.choose(values)

	for i, e := range events {
		switch e.Type {
		case sandbox.EventStdout, sandbox.EventStderr:
			r.print(string(e.Type), e)
		case sandbox.EventOmitted:
			p := piece{gap: true, offset: e.Offset, missing: e.Bytes}
			if e.Reason == sandbox.OmittedByLimit {
				p.gone = e.Bytes
			}
			r.add(p)
		case sandbox.EventDisplay, sandbox.EventResult:
			r.add(r.values[i].pieces...)
		case sandbox.EventError:
			if i == lastError {
				r.add(failure...)
			}
		}
	}
	if lastError < 0 {
		r.add(failure...)
	}
	r.add(show.rest()...)
	r.flush()
}

// print adds printed text. If the last piece is printed text of the same stream, right before this text, print joins the two.
func (r *rendering) print(label string, e sandbox.Event) {
	if n := len(r.pieces); n > 0 {
		last := &r.pieces[n-1]
		if last.stream && last.label == label && last.offset+int64(r.run.Len()) == e.Offset {
			r.run.WriteString(e.Text)
			return
		}
	}
	r.add(piece{label: label, stream: true, offset: e.Offset})
	r.run.WriteString(e.Text)
}

// add flushes the printed text and then appends pieces. Without pieces it does nothing.
func (r *rendering) add(pieces ...piece) {
	if len(pieces) > 0 {
		r.flush()
		r.pieces = append(r.pieces, pieces...)
	}
}

func (r *rendering) flush() {
	if r.run.Len() > 0 {
		r.pieces[len(r.pieces)-1].text = r.run.String()
		r.run.Reset()
	}
}

// body writes the pieces, and lines about output that is missing or empty.
func (r *rendering) body(w *writer, pieces []piece, alternations int) {
	if alternations > 0 {
		w.line("stdout and stderr alternated %d times and are shown apart.", alternations)
	}
	switch {
	case r.ex.OutputGone && r.ex.Reason != "" && r.ex.State != sandbox.ExecLost: // a lost execution's status line has the reason
		w.line("[The output was deleted: %s]", oneLine(r.ex.Reason, 400))
	case r.ex.OutputGone:
		w.line("[The output was deleted to free space for newer executions.]")
	}
	r.write(w, pieces)
	if len(pieces) == 0 && !r.ex.OutputGone {
		switch {
		case r.view.Paging:
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

// latePieces returns pieces for the text that was printed between the previous execution and this one. An answer shows
// them after the execution's own output, with a different label, so that a model does not confuse the two.
func (r *rendering) latePieces() []piece {
	since := r.ex.Interlude
	if since == nil || since.LateBytes == 0 || r.view.Paging {
		return nil
	}
	note := Bytes(since.LateBytes) + " were printed between the previous execution and this one, by a thread, a timer or a child process"
	raw := collapseReturns(since.LateText)
	keep, shown := len(raw), breakBackticks(cleanText(raw))
	for ; len(shown) > lateBudget; keep = keep * 3 / 4 {
		shown = breakBackticks(cleanText(cutTail(raw, keep*3/4)))
	}
	switch {
	case shown == "":
		return []piece{{note: "[" + note + ".]"}}
	case since.LateBytes > int64(len(since.LateText)) || keep < len(raw):
		note += ". The end of this text"
	}
	return []piece{{note: "[" + note + ":]"}, {label: "not of this execution", text: shown}}
}

func (r *rendering) gap(w *writer, p piece) {
	if kept := p.missing - p.gone; kept > 0 && !r.view.Paging {
		w.line("[%s not shown: get_execution(execution_id=%q, offset=%d) reads them]", Bytes(kept), r.ex.ID, p.offset)
	}
	if p.gone > 0 {
		w.line("[%s were not stored: the code printed more than %d MiB]", Bytes(p.gone), sandbox.MaxOutputBytes/sandbox.MiB)
	}
}

const maxFilesListed = 20

// fileLines returns lines that list the files that the execution wrote and name the call that reads a file. The answer does
// not use resource links, because clients drop them, and a model does not find files that the answer does not name.
func (r *rendering) fileLines() string {
	if r.view.Paging && !r.ex.State.Final() {
		return ""
	}
	w, listed := &writer{}, 0
	if files := r.ex.Files; len(files) > 0 {
		w.line("Files written; read_file(sandbox_id=%q, path=…) reads one:", r.ex.SandboxID)
		for _, f := range files[:min(len(files), maxFilesListed)] {
			line := fmt.Sprintf("- %s, %s", QuotePath(f.Path), Bytes(f.Size))
			if w.Len()+len(line) > filesBudget*2/3 {
				break
			}
			w.line("%s", line)
			listed++
		}
		if more := len(files) - listed; more > 0 {
			w.line("- and %d more (list them with code)", more)
		}
	}
	for i, f := range r.ex.FilesOmitted {
		line := fmt.Sprintf("- not listed: %s: %s", QuotePath(f.Path), oneLine(f.Reason, 200))
		if i == 5 || w.Len()+len(line) > filesBudget-50 {
			w.line("- and %d more were not listed", len(r.ex.FilesOmitted)-i)
			break
		}
		w.line("%s", line)
	}
	return w.String()
}

// nextLine returns the line that suggests the call for more output, or "" if there is no more.
func (r *rendering) nextLine(offset int64) string {
	w := &writer{}
	switch {
	case !r.ex.State.Final():
		w.line("It goes on by itself; do not run it again. get_execution(execution_id=%q, offset=%d) waits for what comes next; interrupt_execution stops it.", r.ex.ID, offset)
	case r.view.Paging && offset < r.ex.OutputBytes && !r.ex.OutputGone:
		w.line("%s more: get_execution(execution_id=%q, offset=%d).", Bytes(r.ex.OutputBytes-offset), r.ex.ID, offset)
	}
	return w.String()
}
