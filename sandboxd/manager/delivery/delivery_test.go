package delivery_test

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/delivery"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// table is a Table with the number of reads from the guest, and the executions whose release was called.
type table struct {
	*delivery.Table
	received atomic.Int64
	mu       sync.Mutex
	released []sandbox.ExecutionID
}

func newTable() *table {
	t := &table{}
	t.Table = delivery.New(t.received.Load)
	return t
}

func (t *table) release(id sandbox.ExecutionID) func() {
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.released = append(t.released, id)
	}
}

func execution(id string) sandbox.Execution {
	return sandbox.Execution{ID: sandbox.ExecutionID(id), Language: sandbox.Python}
}

func (t *table) accept(id string) sandbox.ExecutionID {
	e := execution(id)
	t.Add(e, t.release(e.ID))
	return e.ID
}

// TestUnseen checks which executions may run again after a sandbox went back to a checkpoint: only those that are
// being delivered and whose effects no client can have seen.
func TestUnseen(t *testing.T) {
	tab := newTable()
	unsent, sent, seen, delivered, recovered := tab.accept("unsent"), tab.accept("sent"), tab.accept("seen"), tab.accept("delivered"), execution("recovered")
	tab.Recover(recovered, tab.release(recovered.ID))
	for _, id := range []sandbox.ExecutionID{unsent, sent, seen, delivered, recovered.ID} {
		if !tab.StartSending(id) {
			t.Errorf("StartSending(%s) = false", id)
		}
	}
	tab.Sent(seen)
	tab.received.Add(1)
	tab.Sent(sent)
	tab.Sent(delivered)
	tab.StopSending(delivered)
	got := tab.Unseen()
	slices.Sort(got)
	if want := []sandbox.ExecutionID{sent, unsent}; !slices.Equal(got, want) {
		t.Errorf("Unseen() = %q, want %q", got, want)
	}
	removed := tab.RemoveExcept(got...)
	if len(removed) != 3 || tab.Len() != 2 || len(tab.released) != 3 {
		t.Errorf("RemoveExcept() = %+v with %d left and %d released, want 3 removed and released", removed, tab.Len(), len(tab.released))
	}
}

// TestAbandon checks that an execution is abandoned only if no delivery is under way or has started since the
// guest was asked, and that an abandoned execution is not delivered again.
func TestAbandon(t *testing.T) {
	tab := newTable()
	id := tab.accept("a")
	asked, _ := tab.Get(id)
	tab.StartSending(id)
	if tab.Abandon(id, asked) {
		t.Error("an execution was abandoned during a delivery")
	}
	tab.StopSending(id)
	if tab.Abandon(id, asked) {
		t.Error("an execution was abandoned although it was delivered after the guest was asked")
	}
	asked, _ = tab.Get(id)
	if !tab.Abandon(id, asked) {
		t.Error("Abandon() = false, want true")
	}
	if tab.Abandon(id, asked) || tab.StartSending(id) {
		t.Error("an abandoned execution was abandoned or delivered again")
	}
	tab.Restore(id)
	if !tab.StartSending(id) {
		t.Error("a restored execution cannot be delivered")
	}
}

// TestRemoveAndBeginSucceedOnce checks that of many concurrent callers only one removes an execution, and at most one
// call of Begin returns true.
func TestRemoveAndBeginSucceedOnce(t *testing.T) {
	for range 100 {
		tab := newTable()
		id := tab.accept("a")
		var begun, removed atomic.Int32
		var reportedBegin atomic.Bool
		var calls sync.WaitGroup
		for range 4 {
			calls.Go(func() {
				if _, first := tab.Begin(id); first {
					begun.Add(1)
				}
			})
			calls.Go(func() {
				if p, ok := tab.Remove(id); ok {
					removed.Add(1)
					reportedBegin.Store(p.Begun)
				}
			})
		}
		calls.Wait()
		if removed.Load() != 1 || len(tab.released) != 1 {
			t.Fatalf("removed %d times and released %d times, want 1", removed.Load(), len(tab.released))
		}
		if want := reportedBegin.Load(); (begun.Load() == 1) != want {
			t.Fatalf("begun %d times, and the removed execution reports %t", begun.Load(), want)
		}
	}
}

// TestQueues checks that each language has a queue with one watcher, and that the queue keeps the order of arrival.
func TestQueues(t *testing.T) {
	tab := newTable()
	a, b := tab.accept("a"), tab.accept("b")
	js := sandbox.Execution{ID: "js", Language: sandbox.JavaScript}
	tab.Add(js, tab.release(js.ID))
	for _, step := range []struct {
		id    sandbox.ExecutionID
		first bool
	}{{a, true}, {b, false}, {a, false}, {js.ID, true}, {"unknown", false}} {
		if _, first := tab.Enqueue(step.id); first != step.first {
			t.Errorf("Enqueue(%s) starts a watcher: %t, want %t", step.id, first, step.first)
		}
	}
	for _, want := range []sandbox.ExecutionID{a, b} {
		if got, ok := tab.Next(sandbox.Python); !ok || got != want {
			t.Errorf("Next() = %s, %t, want %s", got, ok, want)
		}
		tab.Remove(want)
	}
	if got, ok := tab.Next(sandbox.Python); ok {
		t.Errorf("Next() = %s, want no execution", got)
	}
	c := tab.accept("c")
	if _, first := tab.Enqueue(c); !first {
		t.Error("an execution does not start a watcher after the queue was removed")
	}
}
