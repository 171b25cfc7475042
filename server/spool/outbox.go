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

// Outbox stores the files of one answer on disk, because they are too long for memory. Only one call of Base64 may run at a
// time. Several calls of Send may run at the same time, also during a call of Base64, so that progress can be sent while a
// file is stored.
type Outbox struct {
	store store

	mu     sync.Mutex
	prefix []byte    // the prefix of the placeholders; nil: no file is stored yet
	stored []section // the stored files, by the number in their placeholder
}

// NewOutbox returns an empty outbox, or nil if f is nil. The caller must close it after the answer was written.
func (f *Folder) NewOutbox() *Outbox {
	if f == nil {
		return nil
	}
	return &Outbox{store: store{folder: f}}
}

// Base64 stores all bytes of r. It returns a placeholder, the token, and the number of bytes. Send replaces the placeholder
// by the base64 of the bytes.
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
	o.prefix, o.stored = []byte(o.store.prefix()), slices.Clone(o.store.sections)
	return token, n, nil
}

// onlyWriter hides all other methods of a writer, such as ReadFrom, so that io.CopyBuffer uses the buffer it is given.
type onlyWriter struct{ io.Writer }

// Send writes a part of an answer to w, with the base64 of the files in place of their placeholders. No placeholder may be
// split between two parts. If o is nil, Send writes part unchanged.
func (o *Outbox) Send(w io.Writer, part []byte) error {
	var prefix []byte
	var stored []section
	if o != nil {
		o.mu.Lock()
		prefix, stored = o.prefix, o.stored
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
		if err != nil || number >= len(stored) {
			return errors.New("an answer has a token that stands for nothing")
		}
		if _, err := w.Write(part[:i]); err != nil {
			return err
		}
		if err := encode(w, o.store.open(stored[number])); err != nil {
			return err
		}
		part = part[n:]
	}
}

// encode writes r to w in base64, in pieces of chunk bytes.
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

// Close removes the files from the disk. It may be called more than once, and on nil.
func (o *Outbox) Close() {
	if o != nil {
		o.store.close()
	}
}

func mebibytes(n int64) string { return strconv.FormatInt(n>>20, 10) + " MiB" }
