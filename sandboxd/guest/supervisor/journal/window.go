package journal

import (
	"sort"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// maxWindow bounds the JSON of the events in one answer. A larger window ends early, and its next offset is where it
// ended.
const maxWindow = 40 * sandbox.MiB

// Window returns the events that w selects, and the offset where the next window begins.
func (j *Journal) Window(w sandbox.Window) (events []sandbox.Event, next int64, err error) {
	events, next, err = j.readWindow(w)
	// If the execution ends during the read, the blob's file is closed and the read fails. A second read opens the file
	// again.
	if err != nil {
		events, next, err = j.readWindow(w)
	}
	return events, next, err
}

func (j *Journal) readWindow(w sandbox.Window) (events []sandbox.Event, next int64, err error) {
	j.mu.Lock()
	j.flush()
	index, contents := j.index, j.blob.view()
	next, gone := j.printed, j.gone
	if !j.final && j.full {
		next = j.printed - j.tail.total // Finish adds the tail as events, which the next window must include
	}
	// next must not exceed j.printed. Otherwise, a reader that continues from an offset beyond the end would miss the
	// text that is printed later but before that offset.
	next = max(next, min(w.Offset, j.printed))
	j.mu.Unlock()
	if gone || len(index) == 0 {
		return nil, next, nil
	}
	closeContents, err := contents.open()
	if err != nil {
		return nil, next, nil // the output was deleted in the meantime
	}
	defer closeContents()

	start := sort.Search(len(index), func(i int) bool { return index[i].end() >= w.Offset })
	cuts := cutWindow(index[start:], w)
	budget, omission, shown := maxWindow, -1, int64(0)
	for i, e := range index[start:] {
		for _, c := range cuts.of(e) {
			ev, cost, err := c.read(contents, int64(start+i+1), e)
			if err != nil {
				return nil, next, err
			}
			if ev.Type == "" {
				continue
			}
			if budget -= cost; budget < 0 && len(events) > 0 {
				return events, ev.Offset, nil
			}
			if ev.Type == sandbox.EventOmitted && ev.Reason == sandbox.OmittedByWindow {
				omission = len(events)
				ev.Offset = max(ev.Offset, w.Offset)
			}
			shown += int64(len(ev.Text))
			events = append(events, ev)
		}
	}
	// The omission also includes the bytes of characters that a cut split.
	if omission >= 0 {
		events[omission].Bytes = cuts.available - shown
		if omission > 0 && events[omission-1].Text != "" {
			events[omission].Offset = events[omission-1].Offset + int64(len(events[omission-1].Text))
		}
	}
	return events, next, nil
}

// end returns the offset at which the text after the event begins.
func (e entry) end() int64 {
	switch {
	case e.isText():
		return e.offset + int64(e.len)
	case e.typ == sandbox.EventOmitted:
		return e.offset + e.at
	}
	return e.offset
}

// cuts determines which text of a window is shown: the text before the offset head and the text from the offset tail
// on.
type cuts struct {
	offset, head, tail int64 // offsets of text
	available          int64 // bytes of stored text from offset on
	omitted            int64 // bytes of stored text between head and tail; 0 once the omission has been returned
}

// cutWindow computes where the head ends and the tail begins. Stored text may have gaps, so cutWindow adds up the
// lengths of the entries' texts.
func cutWindow(index []entry, w sandbox.Window) cuts {
	c := cuts{offset: w.Offset}
	for _, e := range index {
		if e.isText() {
			c.available += max(e.end()-max(e.offset, w.Offset), 0)
		}
	}
	head, tail := int64(max(w.Head, 0)), int64(max(w.Tail, 0))
	if head == 0 && tail == 0 || c.available <= head+tail {
		c.head = 1 << 62
		c.tail = c.head
		return c
	}
	c.omitted = c.available - head - tail
	c.head, c.tail = w.Offset, 1<<62
	for _, e := range index {
		if !e.isText() {
			continue
		}
		from := max(e.offset, w.Offset)
		if n := min(max(e.end()-from, 0), head); n > 0 {
			head -= n
			c.head = from + n
		}
	}
	for i := len(index) - 1; i >= 0 && tail > 0; i-- {
		e := index[i]
		if !e.isText() {
			continue
		}
		n := min(max(e.end()-max(e.offset, w.Offset), 0), tail)
		tail -= n
		if n > 0 {
			c.tail = e.end() - n
		}
	}
	return c
}

// piece is a part of an entry: the text between two offsets, a whole event that is not text, or the omission between
// head and tail.
type piece struct {
	from, to int64
	omitted  int64
	whole    bool
}

// of returns the pieces of an entry that the window shows, in order.
func (c *cuts) of(e entry) []piece {
	if !e.isText() {
		if e.typ == sandbox.EventStatus || e.typ == sandbox.EventFile || e.offset < c.offset && e.end() <= c.offset {
			return nil
		}
		return []piece{{whole: true}}
	}
	from, to := max(e.offset, c.offset), e.end()
	var out []piece
	if a, b := from, min(to, c.head); a < b {
		out = append(out, piece{from: a, to: b})
	}
	if c.omitted > 0 && to > c.head {
		out = append(out, piece{from: max(from, c.head), omitted: c.omitted})
		c.omitted = 0
	}
	if a, b := max(from, c.tail), to; a < b {
		out = append(out, piece{from: a, to: b})
	}
	return out
}

// read returns the event of a piece and the event's approximate size as JSON. It cuts the text between characters. The
// event has no Type if the piece contains no whole character.
func (p piece) read(contents view, seq int64, e entry) (ev sandbox.Event, cost int, err error) {
	if p.omitted > 0 {
		return sandbox.Event{Type: sandbox.EventOmitted, Offset: p.from, Bytes: p.omitted, Reason: sandbox.OmittedByWindow}, 100, nil
	}
	if p.whole {
		n := int(e.len)
		content, err := contents.readAt(e.at, n)
		if err != nil {
			return ev, 0, err
		}
		ev, err = e.event(seq, content)
		return ev, n + 200, err
	}
	content, err := contents.readAt(e.at, int(e.len))
	if err != nil {
		return ev, 0, err
	}
	// A character that the piece contains only in part is left out.
	a, b := charEnd(content, int(p.from-e.offset)), charStart(content, int(p.to-e.offset))
	if a >= b {
		return ev, 0, nil
	}
	e.offset += int64(a)
	ev, err = e.event(seq, content[a:b])
	return ev, 200 + jsonSize(content[a:b]), err
}

// jsonSize returns the length of p as the content of a JSON string.
func jsonSize(p []byte) int {
	n := len(p)
	for _, c := range p {
		switch {
		case c == '\n' || c == '"' || c == '\\' || c == '\t' || c == '\r':
			n++
		case c < 0x20 || c == 0x7f:
			n += 5
		}
	}
	return n
}
