// Package journal stores the events and the output of one execution. Its [Journal] is written while the execution runs,
// and read by any number of followers and by windows, during the execution and afterwards. Package supervisor is its
// only caller. The package does not decide which executions are stored, or for how long.
//
//   - [Journal] (journal.go): adds events, gathers small prints, applies the limits of one execution
//   - [Journal.Follow] (follow.go): all events from a number on, as they are added
//   - [Journal.Window] (window.go): a part of the output, with its beginning and its end
//   - blob (blob.go): the bytes of texts and values, in memory or in a file; tail (tail.go): the end of a text beyond the
//     limit; text.go: cutting text between characters
package journal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Journal stores the numbered events of an execution. Any number of readers can read the events, each from any event
// number on and at its own speed. The index of the events is in memory; their texts and values are in a [blob].
//
// Text beyond MaxOutputBytes is counted, but only the last TailBytes of it are kept (tail.go). [Journal.Finish] adds the kept
// text as events.
type Journal struct {
	countOutput func(bytes int64) // called with the number of bytes by which the journal has grown, while mu is held

	mu      sync.Mutex
	blob    blob
	index   []entry
	printed int64             // bytes of text so far, stored or not
	rich    int64             // bytes of stored values
	values  int               // displays and results so far, stored or not
	errors  int               // errors so far, stored or not
	last    []byte            // the newest value if there are more than MaxValues
	lastTyp sandbox.EventType // the type of the event for last: a display or a result
	full    bool              // a limit is reached or the disk is full: further text goes to tail
	tail    tail
	final   bool
	gone    bool                   // the output was deleted to free space
	state   sandbox.ExecutionState // the latest state of the execution
	end     int64                  // number of the last event, set when the output is deleted

	// Printed text that is not an event yet. gather collects it so that a million small prints become few events.
	pending     []byte
	pendingType sandbox.EventType
	timer       *time.Timer

	changed chan struct{} // closed when the next event is added; nil if no reader waits
}

// entry describes one event. The bytes of its text or value are in the blob.
type entry struct {
	typ    sandbox.EventType
	state  sandbox.ExecutionState // set only for status events
	reason sandbox.OmitReason     // set only for omitted events
	len    int32
	time   int64 // Unix nanoseconds
	offset int64 // bytes of text printed before the event
	at     int64 // position of the text or value in the blob; for omitted events, the number of omitted bytes
}

const (
	// gatherFor is how long text is held back so that more text of the same type can be added to the event.
	gatherFor = 10 * time.Millisecond
	// gatherBytes bounds the gathered text, and eventBytes bounds the text of one event.
	gatherBytes = 64 << 10
	eventBytes  = 256 << 10
	// maxEvents bounds the index: once the index has this many entries, further text goes to the tail.
	maxEvents = 100_000
	entryCost = 64 // bytes of memory per entry, roughly
	// maxValue bounds the JSON of one value. A kernel's messages have the same limit.
	maxValue = 16 * sandbox.MiB
	// maxLastValue bounds the size of Journal.last, which is kept in memory until the execution ends.
	maxLastValue = 1 << 20
)

// New returns an empty journal. If it becomes large, it stores its output in a file at path. The journal calls
// countOutput with the number of bytes by which it has grown; countOutput must not call the journal.
func New(path string, countOutput func(int64)) *Journal {
	return &Journal{blob: blob{path: path}, countOutput: countOutput}
}

// AddText adds text that the code printed. p must be valid UTF-8, and is copied. The type is EventStdout or EventStderr.
func (j *Journal) AddText(typ sandbox.EventType, p []byte) {
	if len(p) == 0 {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.final {
		return
	}
	if !j.full && (j.printed+int64(len(p)) > sandbox.MaxOutputBytes || len(j.index) >= maxEvents) {
		room := charStart(p, int(max(sandbox.MaxOutputBytes-j.printed, 0)))
		if len(j.index) >= maxEvents {
			room = 0
		}
		j.gather(typ, p[:room])
		j.flush()
		j.full = true
		p = p[room:]
	}
	if j.full {
		j.printed += int64(len(p))
		j.tail.add(typ, p)
		return
	}
	for len(p) > eventBytes {
		n := charStart(p, eventBytes)
		j.gather(typ, p[:n])
		p = p[n:]
	}
	j.gather(typ, p)
}

func (j *Journal) gather(typ sandbox.EventType, p []byte) {
	if len(p) == 0 {
		return
	}
	if j.pendingType != typ || len(j.pending)+len(p) > gatherBytes {
		j.flush()
	}
	j.printed += int64(len(p))
	j.pendingType = typ
	j.pending = append(j.pending, p...)
	if len(j.pending) >= gatherBytes {
		j.flush()
		return
	}
	if j.timer == nil {
		j.timer = time.AfterFunc(gatherFor, func() {
			j.mu.Lock()
			defer j.mu.Unlock()
			j.timer = nil
			j.flush()
		})
	}
}

// flush turns the pending text into an event. The caller must hold j.mu.
func (j *Journal) flush() {
	if len(j.pending) == 0 {
		return
	}
	before := j.printed - int64(len(j.pending))
	j.add(entry{typ: j.pendingType, offset: before}, j.pending)
	if cap(j.pending) > gatherBytes {
		j.pending = nil
	}
	j.pending = j.pending[:0]
}

// add appends an event. If the blob can't store the event's content, usually because the disk is full, the event
// becomes an omission. The caller must hold j.mu.
func (j *Journal) add(e entry, content []byte) {
	e.time = time.Now().UnixNano()
	if len(content) > 0 {
		at, err := j.blob.append(content)
		if err != nil {
			j.full = true
			e = entry{typ: sandbox.EventOmitted, reason: sandbox.OmittedByLimit, time: e.time, offset: e.offset, at: int64(len(content))}
		} else {
			e.at, e.len = at, int32(len(content))
		}
	}
	j.index = append(j.index, e)
	if j.changed != nil {
		close(j.changed)
		j.changed = nil
	}
	j.countOutput(int64(e.len) + entryCost)
}

// AddValue adds a display or a result, or, if the value is too large, a note in its place. Of the values beyond MaxValues,
// only the newest is kept; Finish adds it as an event.
func (j *Journal) AddValue(typ sandbox.EventType, data map[string]string) {
	content := encode(data)
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.final {
		return
	}
	j.values++
	switch beyond := j.values > sandbox.MaxValues; {
	case beyond && len(content) > maxLastValue, !beyond && (len(content) > maxValue || j.rich+int64(len(content)) > sandbox.MaxRichBytes):
		content = note(fmt.Sprintf("[left out: a value of %d bytes; the stored pictures and values of one execution have at most %d bytes]", len(content), sandbox.MaxRichBytes))
	case !beyond:
		j.rich += int64(len(content))
	}
	if j.values > sandbox.MaxValues {
		j.last, j.lastTyp = content, typ
		return
	}
	j.flush()
	j.add(entry{typ: typ, offset: j.printed}, content)
}

// note returns the content of a value that shows a text in place of values that are not kept.
func note(text string) []byte { return encode(map[string]string{"text/plain": text}) }

// AddError adds an event for an error. Errors beyond MaxErrors are counted, and Finish adds one event for them.
func (j *Journal) AddError() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.final {
		return
	}
	if j.errors++; j.errors <= sandbox.MaxErrors {
		j.flush()
		j.add(entry{typ: sandbox.EventError, offset: j.printed}, nil)
	}
}

// AddStatus adds an event for a change of state.
func (j *Journal) AddStatus(s sandbox.ExecutionState) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.flush()
	j.state = s
	j.add(entry{typ: sandbox.EventStatus, state: s, offset: j.printed}, nil)
}

// Finish adds the events that were held back: the tail of the text, the last of the values beyond MaxValues, one error
// if there were more than MaxErrors, and the files. It then adds the final state as the last event. Further calls have
// no effect.
func (j *Journal) Finish(s sandbox.ExecutionState, files []sandbox.File) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.final {
		return
	}
	j.flush()
	segments, kept := j.tail.take()
	from := j.printed - j.tail.total
	if lost := j.tail.total - kept; lost > 0 {
		j.add(entry{typ: sandbox.EventOmitted, reason: sandbox.OmittedByLimit, offset: from, at: lost}, nil)
		from += lost
	}
	for _, seg := range segments {
		j.add(entry{typ: seg.typ, offset: from}, seg.text)
		from += int64(len(seg.text))
	}
	if more := j.values - sandbox.MaxValues; more > 0 {
		if more > 1 {
			j.add(entry{typ: sandbox.EventDisplay, offset: j.printed}, note(fmt.Sprintf(
				"[left out: %d pictures and values; the first %d and the last one of an execution are stored]", more-1, sandbox.MaxValues)))
		}
		j.add(entry{typ: j.lastTyp, offset: j.printed}, j.last)
		j.last = nil
	}
	if j.errors > sandbox.MaxErrors {
		j.add(entry{typ: sandbox.EventError, offset: j.printed}, nil)
	}
	for _, f := range files {
		j.add(entry{typ: sandbox.EventFile, offset: j.printed}, encode(f))
	}
	j.final, j.state = true, s
	j.add(entry{typ: sandbox.EventStatus, state: s, offset: j.printed}, nil)
	j.blob.finish()
	if j.timer != nil {
		j.timer.Stop()
	}
	j.pending, j.tail = nil, tail{total: j.tail.total}
}

// DeleteOutput deletes the output of a final execution to free space, and returns how many bytes it freed. Only the
// number of printed bytes and the final state remain.
func (j *Journal) DeleteOutput() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.gone {
		return 0
	}
	freed := j.blob.size + int64(len(j.index))*entryCost
	j.gone = true
	j.blob.remove()
	j.end, j.index = int64(len(j.index)), nil
	return freed
}

// TextBytes returns how many bytes of text were printed so far.
func (j *Journal) TextBytes() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.printed
}

// encode returns v as JSON without HTML escapes.
func encode(v any) []byte {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil { // maps of strings and files can always be encoded
		panic(fmt.Sprintf("encode %T: %v", v, err))
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n"))
}

func (e entry) event(seq int64, content []byte) (sandbox.Event, error) {
	ev := sandbox.Event{Seq: seq, Type: e.typ, Time: time.Unix(0, e.time).UTC(), Offset: e.offset}
	switch e.typ {
	case sandbox.EventStdout, sandbox.EventStderr:
		ev.Text = string(content)
	case sandbox.EventDisplay, sandbox.EventResult:
		return ev, json.Unmarshal(content, &ev.Data)
	case sandbox.EventFile:
		return ev, json.Unmarshal(content, &ev.File)
	case sandbox.EventOmitted:
		ev.Bytes, ev.Reason = e.at, e.reason
	case sandbox.EventStatus:
		ev.State = e.state
	}
	return ev, nil
}

func (e entry) isText() bool {
	return e.typ == sandbox.EventStdout || e.typ == sandbox.EventStderr
}

// OutputDeleted reports whether the output was deleted to free space.
func (j *Journal) OutputDeleted() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.gone
}
