package journal

import "github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"

// tail keeps the last TailBytes of the text that is added to it.
type tail struct {
	segments []segment
	held     int64 // bytes of the text in segments
	total    int64 // bytes of all text that was added
}

type segment struct {
	typ  sandbox.EventType
	text []byte
}

const segmentBytes = 32 << 10

func (t *tail) add(typ sandbox.EventType, p []byte) {
	t.total += int64(len(p))
	if n := len(p) - sandbox.TailBytes; n > 0 {
		p = p[charEnd(p, n):]
	}
	t.held += int64(len(p))
	for len(p) > 0 {
		last := len(t.segments) - 1
		if last < 0 || t.segments[last].typ != typ || len(t.segments[last].text) >= segmentBytes {
			t.segments = append(t.segments, segment{typ: typ})
			last++
		}
		s := &t.segments[last]
		n := charStart(p, min(len(p), segmentBytes))
		s.text = append(s.text, p[:n]...)
		p = p[n:]
	}
	for t.held-int64(len(t.segments[0].text)) >= sandbox.TailBytes {
		t.held -= int64(len(t.segments[0].text))
		t.segments = t.segments[1:]
	}
}

// take returns the last TailBytes of text, beginning at a whole character, and the length of that text in bytes.
func (t *tail) take() ([]segment, int64) {
	if len(t.segments) == 0 {
		return nil, 0
	}
	if over := t.held - sandbox.TailBytes; over > 0 {
		first := &t.segments[0]
		first.text = first.text[charEnd(first.text, int(over)):]
	}
	var kept int64
	for _, s := range t.segments {
		kept += int64(len(s.text))
	}
	return t.segments, kept
}
