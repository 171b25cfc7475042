// Package streams contains the parts of the streams to guests that engines share. Packages docker and gvisor use it;
// the streams over a guest's own stdin and stdout are in package stdio.
//
//   - [Stream]: a connection to a guest
//   - [Open]: the open streams of an engine's sandboxes, which are closed before memory is saved
//   - [Program]: the stdin and stdout of a program as a connection (program.go)
package streams

import (
	"context"
	"maps"
	"net"
	"slices"
	"sync"

	"github.com/dormouse-sandbox/dormouse/sandboxd/stdio"
)

// Stream is a connection to a guest, through a program or directly.
type Stream interface {
	net.Conn
	// Ended returns a channel that is closed when the stream has been closed and, as far as the implementation can
	// check, the sandbox no longer uses the stream.
	Ended() <-chan struct{}
}

// Open contains the open streams of each sandbox, which must be closed before the sandbox's memory is saved. The
// parameter id of its methods is the id of the sandbox or of the sandbox's container. The zero value is ready for use.
// Open is safe for concurrent use.
type Open struct {
	mu sync.Mutex
	// The inner map's value is true if the stream is unused: it was opened to check that the guest can be dialled, and
	// the next Dial may take it.
	open map[string]map[Stream]bool
}

// Add adds a stream and marks it as used. The stream is removed from l when its Ended channel is closed.
func (l *Open) Add(id string, s Stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.open = map[string]map[Stream]bool{}
	}
	if l.open[id] == nil {
		l.open[id] = map[Stream]bool{}
	}
	l.open[id][s] = false
	go func() {
		<-s.Ended()
		l.remove(id, s)
	}()
}

// Join adds a new stream and returns when the guest has accepted it. If that fails or if ctx ends first, Join closes the
// stream.
func (l *Open) Join(ctx context.Context, id string, s Stream) error {
	l.Add(id, s)
	return stdio.AwaitJoined(ctx, s)
}

// Offer marks an added stream as unused, so that the next Take returns it. Offer does nothing if the stream has ended.
func (l *Open) Offer(id string, s Stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, open := l.open[id][s]; open {
		l.open[id][s] = true
	}
}

// Take returns an unused stream of a sandbox and marks the stream as used. It returns false if there is none.
func (l *Open) Take(id string) (s Stream, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s, unused := range l.open[id] {
		if unused {
			l.open[id][s] = false
			return s, true
		}
	}
	return nil, false
}

func (l *Open) remove(id string, s Stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open[id], s)
	if len(l.open[id]) == 0 {
		delete(l.open, id)
	}
}

// Close closes the streams that a sandbox has when Close is called, and waits until these streams have ended. It does
// not close streams that are added later.
func (l *Open) Close(id string) {
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

// CloseAll calls Close for every sandbox.
func (l *Open) CloseAll() {
	l.mu.Lock()
	ids := slices.Collect(maps.Keys(l.open))
	l.mu.Unlock()
	for _, id := range ids {
		l.Close(id)
	}
}
