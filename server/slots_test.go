package server

import (
	"context"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

func TestRequestSlotAfterAWait(t *testing.T) {
	work, waits := newSlots(1, 0), newSlots(1, 0)
	acquireSlot := func() *requestSlot {
		t.Helper()
		s, ok := newRequestSlot(t.Context(), work, waits, sandbox.Operator)
		if !ok {
			t.Fatal("no slot is free, want one")
		}
		return s
	}
	want := func(after string, working, waiting int) {
		t.Helper()
		if work.inUse() != working || waits.inUse() != waiting {
			t.Errorf("after %s: %d working and %d waiting, want %d and %d", after, work.inUse(), waits.inUse(), working, waiting)
		}
	}
	first := acquireSlot()
	for range 2 { // the second call must succeed, too: first already holds the only slot for waiting requests
		if !first.wait() {
			t.Error("a slot for a wait was refused, want it")
		}
	}
	want("a wait", 0, 1)
	second := acquireSlot()
	if first.resume(t.Context()) {
		t.Error("a request works after its wait without a working slot")
	}
	second.leave()
	if !first.resume(t.Context()) || !first.resume(context.Background()) {
		t.Error("the working slot was refused, want it")
	}
	want("the end of the wait", 1, 0)
	first.leave()
	if first.leave(); first.wait() || first.resume(t.Context()) {
		t.Error("a request that has ended got a slot")
	}
	want("the end", 0, 0)
}
