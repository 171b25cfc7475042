package manager_test

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/manager"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// reports records the states with which OnExecution was called, for each execution. mu guards all.
type reports struct {
	mu  sync.Mutex
	all map[sandbox.ExecutionID][]string
}

// listen sets c.OnExecution to a function that records its calls in l.
func (l *reports) listen(c *manager.Config) {
	l.all = map[sandbox.ExecutionID][]string{}
	c.OnExecution = func(e sandbox.Execution) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.all[e.ID] = append(l.all[e.ID], string(e.State))
	}
}

// states returns the states with which OnExecution was called for an execution, separated by spaces.
func (l *reports) states(id sandbox.ExecutionID) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.all[id], " ")
}

// count returns the number of executions for which OnExecution was called with exactly these states.
func (l *reports) count(states string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, all := range l.all {
		if strings.Join(all, " ") == states {
			n++
		}
	}
	return n
}

// TestOnExecutionReportsBeginAndEndOnce checks that OnExecution is called once when an execution begins and once
// when it ends. That holds however often clients ask for the execution, and whether the execution ends by itself
// or because its sandbox is terminated.
func TestOnExecutionReportsBeginAndEndOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l reports
		d := newDaemon(t, l.listen)
		ctx := t.Context()
		sb := d.create(t, sandbox.CreateRequest{})
		want := func(id sandbox.ExecutionID, states string) {
			t.Helper()
			synctest.Wait() // OnExecution may be called a moment after Execute has returned
			if got := l.states(id); got != states {
				t.Errorf("OnExecution(%s) was called with the states %q, want %q", id, got, states)
			}
		}
		e := d.execute(t, sb.ID, "print x", 5)
		for range 3 {
			if _, err := d.GetExecution(ctx, string(e.ID), 1, sandbox.NoOutput); err != nil {
				t.Error(err)
			}
		}
		want(e.ID, "queued succeeded")

		req := sandbox.ExecuteRequest{Code: "sleep 10s", RequestID: "r", WaitSeconds: 1}
		var slow sandbox.Execution
		for range 3 { // the same request three times
			var err error
			if slow, err = d.Execute(ctx, string(sb.ID), req); err != nil {
				t.Error(err)
			}
			want(slow.ID, "queued")
		}
		if _, err := d.GetExecution(ctx, string(slow.ID), 20, sandbox.NoOutput); err != nil {
			t.Error(err)
		}
		want(slow.ID, "queued succeeded")

		answered := make(chan sandbox.Execution, 1)
		go func() { answered <- d.execute(t, sb.ID, "sleep 10s", 60) }()
		time.Sleep(time.Second) // the guest does not refuse the execution within this time, so it has begun
		if n := l.count("queued"); n != 1 {
			t.Errorf("OnExecution was called for the begin of %d executions that have not ended, want 1", n)
		}
		want((<-answered).ID, "queued succeeded")

		stopped := d.execute(t, sb.ID, "sleep 1h", 0)
		if _, err := d.Interrupt(ctx, string(stopped.ID)); err != nil {
			t.Error(err)
		}
		want(stopped.ID, "queued interrupted")

		running, queued := d.execute(t, sb.ID, "sleep 1h", 0), d.execute(t, sb.ID, "print y", 0)
		if err := d.Delete(ctx, string(sb.ID)); err != nil {
			t.Error(err)
		}
		want(running.ID, "queued lost")
		want(queued.ID, "queued "+d.executionState(t, queued.ID))
	})
}

func (d *daemon) executionState(t testing.TB, id sandbox.ExecutionID) string {
	t.Helper()
	e, err := d.GetExecution(t.Context(), string(id), 0, sandbox.NoOutput)
	if err != nil {
		t.Fatal(err)
	}
	return string(e.State)
}
