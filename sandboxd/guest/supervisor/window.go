//go:build linux

package supervisor

import (
	"sort"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// maxWindow bounds one answer's events as JSON; a window that is larger ends early, and its
// next offset says where.
const maxWindow = 40 * sandbox.MiB

// window returns the events that w asks for, and where the next window begins.
func (j *journal) window(w sandbox.Window) (events []sandbox.Event, next int64, err error) {
	events, next, err = j.readWindow(w)
	if err != nil { // the blob was closed under it, because the execution ended
		events, next, err = j.readWindow(w)
	}
	return events, next, err
}

func (j *journal) readWindow(w sandbox.Window) (events []sandbox.Event, next int64, err error) {
	j.mu.Lock()
	j.flush()
	index, contents := j.index, j.blob.view()
	next, gone := j.printed, j.gone
	if !j.final && j.full {
		next = j.printed - j.tail.total // the tail comes at the end
	}
	next = max(next, min(w.Offset, j.printed)) // who goes on from beyond the end would never see what comes before it
	j.mu.Unlock()
	if gone || len(index) == 0 {
		return nil, next, nil
	}
	closeContents, err := contents.open()
	if err != nil {
		return nil, next, nil // dropped this very moment
	}
	defer closeContents()

	start := sort.Search(len(index), func(i int) bool { return index[i].end() >= w.Offset })
	cuts := cutWindow(index[start:], w)
	budget, omission, shown := maxWindow, -1, int64(0)
	for i, e := range index[start:] {
		for _, c := range cuts.of(i, e) {
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
	if omission >= 0 { // what the cuts at characters left out as well
		events[omission].Bytes = cuts.available - shown
		if omission > 0 && events[omission-1].Text != "" {
			events[omission].Offset = events[omission-1].Offset + int64(len(events[omission-1].Text))
		}
	}
	return events, next, nil
}

// end is the offset after the event.
func (e entry) end() int64 {
	switch {
	case e.isText():
		return e.offset + int64(e.len)
	case e.typ == sandbox.EventOmitted:
		return e.offset + e.at
	}
	return e.offset
}

// cuts says which text of a window is shown: what begins before head, what ends after tail.
type cuts struct {
	offset, head, tail int64 // offsets of text
	available          int64 // bytes of kept text from offset on
	omitted            int64 // of those, bytes between head and tail
}

// cutWindow finds the head's end and the tail's beginning. Kept text may have gaps, so it
// is counted by entry.
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

// piece is a part of an entry: text from..to, a whole other event, or the omission.
type piece struct {
	from, to int64
	omitted  int64
	whole    bool
}

// of returns what the window shows of an entry, in order.
func (c *cuts) of(_ int, e entry) []piece {
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

// read makes the event of a piece, cut at characters, and says what it costs as JSON.
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
	// A character that is cut in two is left out.
	a, b := charEnd(content, int(p.from-e.offset)), charStart(content, int(p.to-e.offset))
	if a >= b {
		return ev, 0, nil
	}
	e.offset += int64(a)
	ev, err = e.event(seq, content[a:b])
	return ev, 200 + jsonSize(content[a:b]), err
}

// jsonSize is how long text becomes as JSON.
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
