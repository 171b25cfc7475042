package spool

import (
	"bytes"
	"errors"
	"io"
)

// Limits of one message. Zero values are useful.
type Limits struct {
	Message int64 // as it comes; 0: 160 MiB
	String  int64 // of one long string, unescaped; 0: 144 MiB, which is a 100 MiB file in lines of base64
	Kept    int64 // of what stays in memory, which is all but the long strings; 0: 8 MiB
	Long    int64 // what is longer is a long string; 0: [Long]
}

// Long is the length, as it is written, up to which a string stays in memory. A message that is no
// longer needs no [Message].
const Long = 64 << 10

// DefaultMessage is the limit of a message when none is given.
const DefaultMessage = 160 << 20

// MaxKept is how much of a message stays in memory at most.
const MaxKept = 8 << 20

const (
	maxString = 144 << 20
	maxDepth  = 10_000 // encoding/json's
	keptEnd   = 4 << 10
)

// Message is a JSON text on its way in. Write takes it in pieces that are cut anywhere, and
// End returns it with tokens in place of its long strings. What is wrong with it
// does not end the reading: the rest goes by, and End says what it was.
type Message struct {
	limits Limits
	store  store
	flaw   *Flaw

	read int64  // bytes that came
	kept []byte // what is left of the message
	over bool   // kept has only the head: there was too much
	tail []byte // the last bytes, when over

	objects  []bool // what the reader is in: objects, or else lists
	keyNext  bool   // the next string is the name of a field
	inString bool
	isKey    bool
	escaped  bool // an odd number of backslashes has just gone by
	start    int  // of the string, in kept
	length   int64
	long     bool // the string is no longer in kept
	token    string
	text     unescaper
}

// Flaw is what makes a message unfit to be handled.
type Flaw struct {
	Kind  FlawKind
	Text  string // for the client
	Cause error  // not for the client
	// Head and Tail are the ends of what is left of the message: they may tell which
	// request it was. Tail is nil when Head is all.
	Head, Tail []byte
}

// FlawKind is who may do something about a flaw.
type FlawKind int

// The kinds of flaws.
const (
	TooLong   FlawKind = iota // the client must send less
	Malformed                 // it is not JSON
	Busy                      // later there may be room
	Failed                    // the disk
)

// NewMessage begins a message. The caller closes it when its strings are not needed any
// more.
func (f *Folder) NewMessage(l Limits) *Message {
	if l.Message == 0 {
		l.Message = DefaultMessage
	}
	if l.String == 0 {
		l.String = maxString
	}
	if l.Kept == 0 {
		l.Kept = MaxKept
	}
	if l.Long == 0 {
		l.Long = Long
	}
	if f == nil {
		l.Kept = l.Message
	}
	m := &Message{limits: l}
	m.store.folder = f
	m.text.to = &m.store
	return m
}

// Write takes the next piece. It never fails.
func (m *Message) Write(p []byte) (int, error) {
	n := len(p)
	m.read += int64(n)
	if m.read > m.limits.Message {
		m.fail(TooLong, "the message is longer than "+mebibytes(m.limits.Message)+", the limit of one message", nil)
	}
	for len(p) > 0 {
		if m.inString {
			p = p[m.insideString(p):]
		} else {
			p = p[m.outsideString(p):]
		}
	}
	return n, nil
}

// Read returns how many bytes came.
func (m *Message) Read() int64 { return m.read }

// outsideString takes what is before the next string, and its quote.
func (m *Message) outsideString(p []byte) int {
	for i, c := range p {
		switch c {
		case '{', '[':
			m.keyNext = c == '{'
			if len(m.objects) >= maxDepth {
				m.fail(Malformed, "the message is nested too deeply", nil)
			} else {
				m.objects = append(m.objects, c == '{')
			}
		case '}', ']':
			m.objects = m.objects[:max(0, len(m.objects)-1)]
			m.keyNext = false
		case ',':
			m.keyNext = len(m.objects) > 0 && m.objects[len(m.objects)-1]
		case ':':
			m.keyNext = false
		case '"':
			m.keep(p[:i+1])
			m.inString, m.isKey, m.long, m.escaped, m.length = true, m.keyNext, false, false, 0
			m.start = len(m.kept)
			return i + 1
		}
	}
	m.keep(p)
	return len(p)
}

// insideString takes what belongs to the string, and the quote that ends it.
func (m *Message) insideString(p []byte) int {
	end := m.endOfString(p)
	if end < 0 {
		m.piece(p)
		return len(p)
	}
	m.piece(p[:end])
	m.endString()
	m.keep(p[end : end+1])
	m.inString = false
	return end + 1
}

// endOfString finds the quote that ends the string: one with an even number of
// backslashes before it.
func (m *Message) endOfString(p []byte) int {
	from := 0 // no backslash before it belongs to what follows
	for {
		quote := bytes.IndexByte(p[from:], '"')
		if quote < 0 {
			m.escaped = m.oddBackslashes(p[from:])
			return -1
		}
		if !m.oddBackslashes(p[from : from+quote]) {
			m.escaped = false
			return from + quote
		}
		m.escaped = false
		from += quote + 1
	}
}

// oddBackslashes reports whether what follows p is escaped.
func (m *Message) oddBackslashes(p []byte) bool {
	n := 0
	for n < len(p) && p[len(p)-1-n] == '\\' {
		n++
	}
	odd := n%2 == 1
	if n == len(p) {
		return odd != m.escaped
	}
	return odd
}

// piece takes a piece of a string.
func (m *Message) piece(p []byte) {
	m.length += int64(len(p))
	if !m.long && !m.isKey && !m.over && m.store.folder != nil && m.length > m.limits.Long {
		m.toDisk()
	}
	switch {
	case !m.long:
		m.keep(p)
	case m.flaw == nil:
		m.textFailed(m.text.write(p))
		if m.flaw == nil && m.lastSize() > m.limits.String {
			m.fail(TooLong, "a string of the message is longer than "+mebibytes(m.limits.String)+", the limit of one string: a file has at most 100 MiB", nil)
		}
	}
}

func (m *Message) lastSize() int64 { return m.store.sections[len(m.store.sections)-1].size }

// toDisk moves what has come of a string.
func (m *Message) toDisk() {
	m.long, m.token = true, ""
	begun := m.kept[m.start:]
	m.kept = m.kept[:m.start]
	if m.flaw != nil {
		return // it goes by
	}
	var err error
	if m.token, err = m.store.begin(); err == nil {
		m.text.carry, m.text.part = nil, nil
		err = m.text.write(begun)
	}
	m.textFailed(err)
}

func (m *Message) endString() {
	if !m.long {
		return
	}
	if m.flaw == nil {
		m.textFailed(m.text.end())
	}
	if m.flaw == nil {
		m.keep([]byte(m.token))
	}
}

func (m *Message) textFailed(err error) {
	switch {
	case err == nil:
	case errors.Is(err, ErrBusy):
		m.fail(Busy, ErrBusy.Error(), nil)
	case errors.Is(err, ErrDisk):
		m.fail(Failed, ErrDisk.Error(), err)
	case err == errNotUTF8:
		m.fail(Malformed, errNotUTF8.Error(), nil)
	default:
		m.fail(Malformed, "the message is not one valid JSON message: "+err.Error(), nil)
	}
}

// keep takes what stays in memory.
func (m *Message) keep(p []byte) {
	if !m.over && int64(len(m.kept)+len(p)) <= m.limits.Kept {
		m.kept = append(m.kept, p...)
		return
	}
	if !m.over {
		m.fail(TooLong, "the message has more than "+mebibytes(m.limits.Kept)+" besides its long strings", nil)
		m.over = true
		m.tail = bytes.Clone(m.kept[max(0, len(m.kept)-keptEnd):])
		m.kept = bytes.Clone(m.kept[:min(len(m.kept), keptEnd)])
	}
	m.tail = append(m.tail, p[max(0, len(p)-keptEnd):]...)
	if len(m.tail) > 16*keptEnd {
		m.tail = append(m.tail[:0], m.tail[len(m.tail)-keptEnd:]...)
	}
}

// fail notes the first thing that is wrong, or that there will never be room. What was on
// disk is not needed any more.
func (m *Message) fail(kind FlawKind, text string, cause error) {
	if m.flaw == nil || m.flaw.Kind >= Busy && kind == TooLong {
		m.flaw = &Flaw{Kind: kind, Text: text, Cause: cause}
		m.store.close()
	}
}

// End returns the message with tokens for its long strings, or what is wrong with it. It
// may still not be JSON.
func (m *Message) End() ([]byte, *Flaw) {
	if err := m.store.flush(); err != nil {
		m.textFailed(err)
	}
	if m.flaw != nil {
		m.flaw.Head = m.kept
		if m.over {
			m.flaw.Tail = m.tail[max(0, len(m.tail)-keptEnd):]
		}
		return nil, m.flaw
	}
	return m.kept, nil
}

// Count returns how many strings are on disk.
func (m *Message) Count() int { return len(m.store.sections) }

// CountIn returns how many tokens are in a part of the message.
func (m *Message) CountIn(part []byte) int {
	if m.Count() == 0 {
		return 0
	}
	return bytes.Count(part, []byte(`"`+m.store.prefix()))
}

// Find returns the string for which s stands, if it is a token of this message.
func (m *Message) Find(s string) (*String, bool) {
	at, ok := m.store.find(s)
	return &String{store: &m.store, at: at}, ok
}

// Close removes the message's strings from the disk. It may be called twice, and for nil.
func (m *Message) Close() {
	if m != nil {
		m.store.close()
	}
}

// String is a long string.
type String struct {
	store *store
	at    section
}

// Size returns its length in bytes.
func (s *String) Size() int64 { return s.at.size }

// Open returns its text, until the message is closed.
func (s *String) Open() io.Reader { return s.store.open(s.at) }
