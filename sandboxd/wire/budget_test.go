package wire_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
)

func TestANamedOwnerCannotTakeTheWholeBudget(t *testing.T) {
	b := wire.NewBudget(1000)
	if b.Take("alice", 751) {
		t.Error("alice took 751 of 1000 bytes, want at most 750")
	}
	if !b.Take("alice", 750) {
		t.Error("alice did not get 750 of 1000 bytes")
	}
	if !b.Take(sandbox.Operator, 250) {
		t.Error("the operator did not get the last quarter")
	}
	if b.Take("bob", 1) || b.Used() != 1000 {
		t.Errorf("bob got a byte of a full budget, or %d bytes are used, want 1000", b.Used())
	}
	b.Give("alice", 750)
	b.Give(sandbox.Operator, 250)
	if !b.Take(sandbox.Operator, 1000) {
		t.Error("the operator did not get the whole of an empty budget")
	}
}

func TestNamedOwnersLeaveAnEighthToTheOperator(t *testing.T) {
	b := wire.NewBudget(1000)
	if !b.Take("alice", 500) || !b.Take("bob", 375) {
		t.Error("two owners did not get 875 of 1000 bytes")
	}
	if b.Take("carol", 1) {
		t.Error("a third owner got a byte of the operator's reserve")
	}
	if !b.Take(sandbox.Operator, 125) {
		t.Error("the operator did not get the reserve")
	}
	b.Give("alice", 500)
	if !b.Take("carol", 500) {
		t.Error("a third owner did not get what the first gave back")
	}
}

func TestReserveWaitsAndThenReportsTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := wire.NewBudget(8 << 20)
		first, release := b.WithBudget(context.Background())
		if err := wire.Reserve(first, 100<<20, 5*time.Second); err != nil { // the answer needs more than the whole budget, but no other answer holds a part of it
			t.Fatalf("an answer larger than the budget: %v", err)
		}
		second, releaseSecond := b.WithBudget(context.Background())
		defer releaseSecond()
		err := wire.Reserve(second, 1<<20, 5*time.Second)
		if sandbox.KindOf(err) != sandbox.Unavailable || !strings.Contains(err.Error(), "8 MiB") {
			t.Errorf("got %v, want unavailable and the limit of 8 MiB", err)
		}
		if err := wire.Reserve(second, 1000, 5*time.Second); err != nil {
			t.Errorf("a small answer with a full budget: %v", err)
		}
		time.AfterFunc(time.Second, release)
		if err := wire.Reserve(second, 1<<20, 5*time.Second); err != nil {
			t.Errorf("an answer that waited for another: %v", err)
		}
		third, releaseThird := b.WithBudget(context.Background())
		defer releaseThird()
		ended, cancel := context.WithCancel(third)
		cancel()
		if err := wire.Reserve(ended, 2<<20, 5*time.Second); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v after the request was cancelled, want %v", err, context.Canceled)
		}
	})
}

// TestParallelAnswersNeverExceedTheBudget reads more answers in parallel than fit into the budget, and checks that the answers
// never hold more than the budget.
func TestParallelAnswersNeverExceedTheBudget(t *testing.T) {
	const size, total = 1 << 20, 9 << 20 // the budget is enough for two answers, which need four bytes of memory per byte
	for name, known := range map[string]bool{"size known": true, "size unknown": false} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if known {
					wire.WriteJSON(w, http.StatusOK, strings.Repeat("x", size))
				} else {
					io.WriteString(w, `"`+strings.Repeat("x", size)+`"`)
				}
			}))
			defer server.Close()
			b := wire.NewBudget(total)
			var atOnce, maximum atomic.Int64
			var wg sync.WaitGroup
			var refused atomic.Int64
			for range 12 {
				wg.Go(func() {
					ctx, release := b.WithBudget(t.Context())
					defer release()
					r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
					if err != nil {
						t.Error(err)
						return
					}
					res, err := http.DefaultClient.Do(r)
					if err != nil {
						t.Error(err)
						return
					}
					if known && res.ContentLength < size {
						t.Errorf("Content-Length is %d, want the size of the answer", res.ContentLength)
					}
					var text string
					err = wire.Decode(res, 2*size, &text)
					if sandbox.KindOf(err) == sandbox.Unavailable {
						refused.Add(1) // allowed: on a slow machine the wait can time out, and answers of unknown size do not wait
						return
					}
					if err != nil || len(text) != size {
						t.Errorf("got %d bytes and %v, want %d", len(text), err, size)
						return
					}
					n := atOnce.Add(1)
					defer atOnce.Add(-1)
					for m := maximum.Load(); n > m && !maximum.CompareAndSwap(m, n); m = maximum.Load() {
					}
					if used := b.Used(); used > total {
						t.Errorf("%d bytes are used, want at most %d", used, total)
					}
				})
			}
			wg.Wait()
			if maximum.Load() > 2 || b.Used() != 0 {
				t.Errorf("%d answers at once, want at most 2; %d bytes are used at the end, want 0", maximum.Load(), b.Used())
			}
			if known && refused.Load() == 12 {
				t.Error("all answers were refused")
			}
		})
	}
}
