package spool

import (
	"bytes"
	"errors"
	"io"
)

// Limits are the limits of one message, in bytes. Zero means the default.
type Limits struct {
	Message int64 // the maximum size of the whole message, before unescaping; 0: 160 MiB
	// String is the maximum size of one long string after unescaping. 0: 144 MiB, which is enough for a 100 MiB file in lines
	// of base64.
	String int64
	Kept   int64 // the maximum size of the part that stays in memory: the message without its long strings; 0: 8 MiB
	// Long is the maximum size of a string, before unescaping, that stays in memory. A larger string is a long string.
	// 0: the constant [Long].
	Long int64
}

// Long is the default length in bytes, before unescaping, up to which a string stays in memory. A message of at most this
// length has no long strings, so it can be parsed without a [Message].
const Long = 64 << 10

// DefaultMessage is the default of Limits.Message, in bytes.
const DefaultMessage = 160 << 20

// MaxKept is the default of Limits.Kept, in bytes.
const MaxKept = 8 << 20

const (
	maxString = 144 << 20
	maxDepth  = 10_000  // the maximum depth of nested values; encoding/json has the same limit
	keptEnd   = 4 << 10 // the size in bytes of Flaw.Head and Flaw.Tail of a message that is too long for memory
)

// Message reads a JSON message and stores its long strings on disk. The caller passes the message to Write in pieces of any
// size. End then returns the message with placeholders, the tokens, in place of its long strings. If the message has a flaw,
// Write discards the rest of the message, and End returns the flaw.
type Message struct {
	limits Limits
	store  store
	flaw   *Flaw

	read      int64  // the number of bytes that were passed to Write so far
	kept      []byte // the message so far, with placeholders in place of long strings
	truncated bool   // kept exceeded Limits.Kept, and now has only the beginning of the message
	tail      []byte // if truncated: the last bytes of the message

	objects  []bool // the open objects (true) and lists (false), the outermost first
	keyNext  bool   // the next string is the name of a field
	inString bool
	isKey    bool      // the current string is the name of a field
	escaped  bool      // the string so far ends with an odd number of backslashes
	start    int       // the offset of the current string in kept
	length   int64     // the length of the current string so far, before unescaping
	long     bool      // the current string is a long string, and no longer in kept
	token    string    // the placeholder of the current string, if that is a long string
	text     unescaper // writes the current string to disk, if that is a long string
}

// Flaw is the reason why a message can't be handled.
type Flaw struct {
	Kind  FlawKind
	Text  string // the reason as a text for the client
	Cause error  // the cause, which only the log may contain; may be nil
	// Head and Tail are the beginning and the end of the part of the message that is in memory. They may contain the id of
	// the request. Tail is nil if Head is the whole part.
	Head, Tail []byte
}

// FlawKind is the kind of a flaw.
type FlawKind int

// The kinds of flaws.
const (
	TooLong   FlawKind = iota // the message exceeds a limit; the client must send less
	Malformed                 // the message is not JSON
	Busy                      // other messages use the disk space; the client may try again later
	Failed                    // the disk is full or failed
)

// NewMessage returns an empty message. If f is nil, all strings stay in memory. The caller must close the message when it
// no longer needs the strings.
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

// Write reads the next piece of the message. It always returns len(p) and nil.
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

// Read returns the number of bytes that were written to the message so far.
func (m *Message) Read() int64 { return m.read }

// outsideString reads p up to and including the quote that begins the next string. It returns the number of bytes read.
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

// insideString reads p up to and including the quote that ends the current string. It returns the number of bytes read.
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

// endOfString returns the index of the quote that ends the current string, or -1 if p has none. An even number of
// backslashes precedes the quote that ends a string.
func (m *Message) endOfString(p []byte) int {
	from := 0 // where the search for the next quote begins
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

// oddBackslashes reports whether the string, read up to the end of p, ends with an odd number of backslashes. If it does,
// the next byte is escaped.
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

// piece reads the next piece of the current string, without quotes.
func (m *Message) piece(p []byte) {
	m.length += int64(len(p))
	if !m.long && !m.isKey && !m.truncated && m.store.folder != nil && m.length > m.limits.Long {
		m.moveToDisk()
	}
	switch {
	case !m.long:
		m.keep(p)
	case m.flaw == nil:
		m.failString(m.text.write(p))
		if m.flaw == nil && m.lastSize() > m.limits.String {
			m.fail(TooLong, "a string of the message is longer than "+mebibytes(m.limits.String)+", the limit of one string: a file has at most 100 MiB", nil)
		}
	}
}

func (m *Message) lastSize() int64 { return m.store.sections[len(m.store.sections)-1].size }

// moveToDisk makes the current string a long string: it moves the part of the string that is in memory to disk.
func (m *Message) moveToDisk() {
	m.long, m.token = true, ""
	begun := m.kept[m.start:]
	m.kept = m.kept[:m.start]
	if m.flaw != nil {
		return // after a flaw, the rest of the message is discarded
	}
	var err error
	if m.token, err = m.store.begin(); err == nil {
		m.text.carry, m.text.part = nil, nil
		err = m.text.write(begun)
	}
	m.failString(err)
}

func (m *Message) endString() {
	if !m.long {
		return
	}
	if m.flaw == nil {
		m.failString(m.text.end())
	}
	if m.flaw == nil {
		m.keep([]byte(m.token))
	}
}

func (m *Message) failString(err error) {
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

// keep appends p to the part of the message that stays in memory. If that part gets too large, only its beginning and end
// are kept.
func (m *Message) keep(p []byte) {
	if !m.truncated && int64(len(m.kept)+len(p)) <= m.limits.Kept {
		m.kept = append(m.kept, p...)
		return
	}
	if !m.truncated {
		m.fail(TooLong, "the message has more than "+mebibytes(m.limits.Kept)+" besides its long strings", nil)
		m.truncated = true
		m.tail = bytes.Clone(m.kept[max(0, len(m.kept)-keptEnd):])
		m.kept = bytes.Clone(m.kept[:min(len(m.kept), keptEnd)])
	}
	m.tail = append(m.tail, p[max(0, len(p)-keptEnd):]...)
	if len(m.tail) > 16*keptEnd {
		m.tail = append(m.tail[:0], m.tail[len(m.tail)-keptEnd:]...)
	}
}

// fail records a flaw and removes the strings from the disk. Only the first flaw is kept, except that TooLong replaces Busy
// and Failed: a client may send the message again after Busy or Failed, but a message that is too long would be refused again.
func (m *Message) fail(kind FlawKind, text string, cause error) {
	if m.flaw == nil || m.flaw.Kind >= Busy && kind == TooLong {
		m.flaw = &Flaw{Kind: kind, Text: text, Cause: cause}
		m.store.close()
	}
}

// End returns the message with placeholders in place of its long strings, or the flaw of the message. It must be called once,
// after the last Write. End does not parse the message, so a message without a flaw may still be invalid JSON.
func (m *Message) End() ([]byte, *Flaw) {
	if err := m.store.flush(); err != nil {
		m.failString(err)
	}
	if m.flaw != nil {
		m.flaw.Head = m.kept
		if m.truncated {
			m.flaw.Tail = m.tail[max(0, len(m.tail)-keptEnd):]
		}
		return nil, m.flaw
	}
	return m.kept, nil
}

// Count returns the number of strings on disk.
func (m *Message) Count() int { return len(m.store.sections) }

// CountIn returns the number of the message's placeholders in a part of the message.
func (m *Message) CountIn(part []byte) int {
	if m.Count() == 0 {
		return 0
	}
	return bytes.Count(part, []byte(`"`+m.store.prefix()))
}

// Find returns the long string that the placeholder s replaced. It reports false if s is not a placeholder of this message.
func (m *Message) Find(s string) (*String, bool) {
	at, ok := m.store.find(s)
	return &String{store: &m.store, at: at}, ok
}

// Close removes the message's strings from the disk. It may be called more than once, and on nil.
func (m *Message) Close() {
	if m != nil {
		m.store.close()
	}
}

// String is a long string of a message. It is valid until the message is closed.
type String struct {
	store *store
	at    section
}

// Size returns the string's length in bytes, after unescaping.
func (s *String) Size() int64 { return s.at.size }

// Open returns a reader of the string's text. It may be called more than once. The reader fails after the message is
// closed.
func (s *String) Open() io.Reader { return s.store.open(s.at) }
