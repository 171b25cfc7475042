package journal

import (
	"context"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// followBatch is approximately how many bytes of events are passed to one call of emit.
const followBatch = 1 << 20

// Follow calls emit with all events whose number is at least from, in batches, and returns after the final event. It
// also returns if emit fails or ctx ends. Follow reads stored events, so a slow follower blocks neither the execution
// nor other followers.
func (j *Journal) Follow(ctx context.Context, from int64, emit func([]sandbox.Event) error) error {
	next, failed := max(from, 1), false
	for {
		index, contents, final, changed := j.snapshot(next)
		if index == nil && final {
			return j.followGone(next, emit)
		}
		switch {
		case next <= int64(len(index)):
			events, err := readEvents(index, contents, next)
			if err != nil { // the execution has ended and closed the blob's file: read once more
				if failed {
					return err
				}
				failed = true
				continue
			}
			if err := emit(events); err != nil {
				return err
			}
			next, failed = next+int64(len(events)), false
		case final:
			return nil
		default:
			select {
			case <-changed:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// snapshot returns the current events. The parameter next is the number of the event that the caller needs next. If
// this event does not exist yet and can still be added, changed is closed when there is a new event; otherwise changed
// is nil.
func (j *Journal) snapshot(next int64) (index []entry, contents view, final bool, changed <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if next > int64(len(j.index)) && !j.final {
		if j.changed == nil {
			j.changed = make(chan struct{})
		}
		changed = j.changed
	}
	return j.index, j.blob.view(), j.final, changed
}

func readEvents(index []entry, contents view, next int64) ([]sandbox.Event, error) {
	closeContents, err := contents.open()
	if err != nil {
		return nil, err
	}
	defer closeContents()
	var events []sandbox.Event
	for size := 0; next <= int64(len(index)) && size < followBatch; next++ {
		e := index[next-1]
		content, err := contents.readAt(e.at, int(e.len))
		if err != nil {
			return nil, err
		}
		ev, err := e.event(next, content)
		if err != nil {
			return nil, err
		}
		events = append(events, ev)
		size += int(e.len) + entryCost
	}
	return events, nil
}

// followGone emits an omission and the final state in place of the events of an execution whose output was deleted.
func (j *Journal) followGone(next int64, emit func([]sandbox.Event) error) error {
	j.mu.Lock()
	last, printed, state := j.end, j.printed, j.state
	j.mu.Unlock()
	var events []sandbox.Event
	if next < last {
		events = append(events, sandbox.Event{Seq: last - 1, Type: sandbox.EventOmitted, Bytes: printed, Reason: sandbox.OmittedByLimit})
	}
	if next <= last {
		events = append(events, sandbox.Event{Seq: last, Type: sandbox.EventStatus, Offset: printed, State: state})
	}
	return emit(events)
}
