package spool

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"

	"github.com/emmansun/base64"
)

// Outbox holds what is too long for an answer in memory. It belongs to one answer.
// Base64 is called by one goroutine, Send meanwhile by others: progress goes out while a file
// comes in.
type Outbox struct {
	store store

	mu     sync.Mutex
	prefix []byte    // of the tokens; nil: there is none
	ready  []section // by number
}

// NewOutbox returns an empty outbox; nil for a nil folder. The caller closes it when the
// answer was written.
func (f *Folder) NewOutbox() *Outbox {
	if f == nil {
		return nil
	}
	return &Outbox{store: store{folder: f}}
}

// Base64 takes all of r, and returns the token for which the answer will have r's bytes in
// base64, with how many they are.
func (o *Outbox) Base64(r io.Reader) (token string, n int64, err error) {
	if token, err = o.store.begin(); err != nil {
		return "", 0, err
	}
	if n, err = io.CopyBuffer(onlyWriter{&o.store}, r, make([]byte, chunk)); err != nil {
		return "", n, err
	}
	if err := o.store.flush(); err != nil {
		return "", n, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.prefix, o.ready = []byte(o.store.prefix()), slices.Clone(o.store.sections)
	return token, n, nil
}

// onlyWriter hides what would make io.Copy choose another buffer.
type onlyWriter struct{ io.Writer }

// Send writes a part of an answer in which no token is cut, with what they stand for in
// their place.
func (o *Outbox) Send(w io.Writer, part []byte) error {
	var prefix []byte
	var ready []section
	if o != nil {
		o.mu.Lock()
		prefix, ready = o.prefix, o.ready
		o.mu.Unlock()
	}
	for {
		i := -1
		if prefix != nil {
			i = bytes.Index(part, prefix)
		}
		if i < 0 {
			_, err := w.Write(part)
			return err
		}
		n := i + len(prefix)
		for n < len(part) && part[n] >= '0' && part[n] <= '9' {
			n++
		}
		number, err := strconv.Atoi(string(part[i+len(prefix) : n]))
		if err != nil || number >= len(ready) {
			return errors.New("an answer has a token that stands for nothing")
		}
		if _, err := w.Write(part[:i]); err != nil {
			return err
		}
		if err := encode(w, o.store.open(ready[number])); err != nil {
			return err
		}
		part = part[n:]
	}
}

// encode writes r in base64, in large pieces.
func encode(w io.Writer, r io.Reader) error {
	in := make([]byte, chunk/4*3)
	out := make([]byte, chunk)
	for {
		n, err := io.ReadFull(r, in)
		if n > 0 {
			base64.StdEncoding.Encode(out, in[:n])
			if _, err := w.Write(out[:base64.StdEncoding.EncodedLen(n)]); err != nil {
				return err
			}
		}
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return nil
		default:
			return fmt.Errorf("read spool: %w", err)
		}
	}
}

// Close removes what is on disk. It may be called twice, and for nil.
func (o *Outbox) Close() {
	if o != nil {
		o.store.close()
	}
}

func mebibytes(n int64) string { return strconv.FormatInt(n>>20, 10) + " MiB" }
