// Package streams is what engines have in common of the streams to guests.
//
//   - [Stream]: a connection to a guest; [Open]: those of an engine's sandboxes, which are closed before memory is saved
//   - [Program]: the stdin and stdout of a program as a connection (program.go)
package streams

import (
	"maps"
	"net"
	"slices"
	"sync"
)

// Stream is a connection to a guest, through a program or not.
type Stream interface {
	net.Conn
	// Ended is closed when the stream has been closed, and nothing that its engine knows of is left of it.
	Ended() <-chan struct{}
}

// Open are the streams that are open, by sandbox: none may be when its memory is saved. One that nobody has is true: it
// showed that the guest can be dialled, and is for who dials first.
type Open[ID comparable] struct {
	mu   sync.Mutex
	open map[ID]map[Stream]bool
}

// Add counts a stream until it ends.
func (l *Open[ID]) Add(id ID, s Stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.open = map[ID]map[Stream]bool{}
	}
	if l.open[id] == nil {
		l.open[id] = map[Stream]bool{}
	}
	l.open[id][s] = false
	go func() {
		<-s.Ended()
		l.drop(id, s)
	}()
}

// Offer leaves a stream to the first who takes it.
func (l *Open[ID]) Offer(id ID, s Stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, open := l.open[id][s]; open {
		l.open[id][s] = true
	}
}

// Take returns a stream that was offered.
func (l *Open[ID]) Take(id ID) (s Stream, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s, free := range l.open[id] {
		if free {
			l.open[id][s] = false
			return s, true
		}
	}
	return nil, false
}

func (l *Open[ID]) drop(id ID, s Stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open[id], s)
	if len(l.open[id]) == 0 {
		delete(l.open, id)
	}
}

// Close closes a sandbox's streams and waits for them to end.
func (l *Open[ID]) Close(id ID) {
	l.mu.Lock()
	list := slices.Collect(maps.Keys(l.open[id]))
	l.mu.Unlock()
	for _, s := range list {
		s.Close()
	}
	for _, s := range list {
		<-s.Ended()
	}
}

// CloseAll is Close for every sandbox.
func (l *Open[ID]) CloseAll() {
	l.mu.Lock()
	ids := slices.Collect(maps.Keys(l.open))
	l.mu.Unlock()
	for _, id := range ids {
		l.Close(id)
	}
}
