//go:build linux

package supervisor_test

import (
	"strings"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// handleRestore sends the guest a report that its memory was restored. These tests send the report alone: they do not
// restore any memory.
func (b *testGuest) handleRestore(restore guest.Restore) {
	b.t.Helper()
	if err := b.ReportRestore(b.t.Context(), restore); err != nil {
		b.t.Fatalf("ReportRestore(%+v): %v", restore, err)
	}
}

func TestRestoreRenewsRandomState(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.requireNode()
	const seed, draw = "import random; random.seed(42)", "random.random()"
	b.python(seed)
	first := result(b.python(draw))
	b.python(seed)
	for range 10 { // the daemon may repeat the call
		b.handleRestore(guest.Restore{Forked: true})
	}
	e := b.python(draw)
	if got := result(e); got == first || !strings.HasPrefix(got, "0.") || e.KernelEpoch != 1 || e.Interlude != nil {
		t.Errorf("random value = %s, epoch %d, interlude %+v, want another value than %s, epoch 1 and no interlude", got, e.KernelEpoch, e.Interlude, first)
	}
	if s, err := b.Status(t.Context()); err != nil || len(s.Kernels) != 1 {
		t.Errorf("kernels = %+v, %v, want only Python's", s.Kernels, err)
	}
	b.javascript("const own = Math.random()")
	b.handleRestore(guest.Restore{Forked: true})
	if e := b.javascript("own !== Math.random() && require('crypto').randomUUID().length"); result(e) != "36" {
		t.Errorf("result = %q, %+v, want 36: another random value and a UUID", result(e), e.Error)
	}
	// AsOfUnix means that everything after the checkpoint was lost. A kernel must then get new random state: otherwise
	// it would return the same random values that it returned after the checkpoint.
	b.python(seed)
	b.javascript("const next = Math.random")
	b.handleRestore(guest.Restore{AsOfUnix: time.Now().Unix(), EpochAbove: 1})
	if got := result(b.python(draw)); got == first {
		t.Errorf("after the restore, the random value is %s again, want another", got)
	}
	// A renewal of the random state has no effect on an execution that is already running.
	b.python(seed)
	id := b.begin(flags+"print('on', flush=True); wait_for('draw'); random.random()", 60)
	b.handleRestore(guest.Restore{Forked: true})
	b.setFlag("draw")
	if got := result(b.look(id, 60)); got != first {
		t.Errorf("random value of an execution that ran = %s, want %s", got, first)
	}
	if got := result(b.python("random.seed(42); random.random()")); got != first {
		t.Errorf("random value after the same seed = %s, want %s", got, first)
	}
}

func TestLossIsReportedOnceByEachKernel(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.requireNode()
	saved := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	wantInterlude := func(t *testing.T, e sandbox.Execution, asOf time.Time, epoch int) {
		t.Helper()
		if e.KernelEpoch != epoch {
			t.Errorf("epoch = %d, want %d", e.KernelEpoch, epoch)
		}
		if asOf.IsZero() != (e.Interlude == nil) || e.Interlude != nil && !e.Interlude.AsOf.Equal(asOf) {
			t.Errorf("interlude = %+v, want one as of %v, or none if that is zero", e.Interlude, asOf)
		}
	}
	b.python("x = 1")
	for range 3 {
		b.handleRestore(guest.Restore{AsOfUnix: saved.Unix(), EpochAbove: 4})
	}
	wantInterlude(t, b.python("x"), saved, 5)
	wantInterlude(t, b.python("x"), time.Time{}, 5)
	b.handleRestore(guest.Restore{AsOfUnix: saved.Unix(), EpochAbove: 4})
	wantInterlude(t, b.python("x"), time.Time{}, 5)
	// When the memory was saved, there was no JavaScript kernel. One may have started in the lost time, so the first
	// JavaScript execution reports the loss, too.
	wantInterlude(t, b.javascript("1"), saved, 5)
	b.handleRestore(guest.Restore{AsOfUnix: saved.Unix(), EpochAbove: 4})
	wantInterlude(t, b.javascript("1"), time.Time{}, 5)
	// A second loss is reported with its own time.
	later := saved.Add(time.Hour)
	b.handleRestore(guest.Restore{AsOfUnix: later.Unix(), EpochAbove: 2, Forked: true})
	wantInterlude(t, b.javascript("1"), later, 6)
	wantInterlude(t, b.python("x"), later, 6)
	// The death of a kernel after the loss increases the epoch once more, and the loss is not reported again.
	b.python("import os; os._exit(1)")
	wantInterlude(t, b.python("1"), time.Time{}, 7)
	if err := b.ReportRestore(t.Context(), guest.Restore{AsOfUnix: -1}); sandbox.KindOf(err) != sandbox.Invalid {
		t.Errorf("ReportRestore() with a time before 1970 = %v, want invalid", err)
	}
}

// TestAKernelIsPrepared checks that Prepare makes kernels ready, and that code can't notice it: neither the kernel's
// variables nor the output of its next execution change.
func TestAKernelIsPrepared(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.requireNode()
	for _, lang := range []sandbox.Language{sandbox.Python, sandbox.JavaScript} {
		for range 2 { // the daemon may repeat the call
			if err := b.Prepare(t.Context(), lang); err != nil {
				t.Fatalf("Prepare(%s): %v", lang, err)
			}
		}
	}
	if s, err := b.Status(t.Context()); err != nil || len(s.Kernels) != 2 || s.Kernels[0].State != sandbox.KernelIdle || s.Kernels[1].State != sandbox.KernelIdle {
		t.Errorf("Status() = %+v, %v, want two kernels that are idle", s, err)
	}
	if e := b.python("[name for name in ('numpy', 'np', 'pandas', 'plt', 'importlib') if name in globals()]"); result(e) != "[]" || e.KernelEpoch != 1 || e.Interlude != nil {
		t.Errorf("names in the kernel = %s, epoch %d, interlude %+v, want none, 1 and none", result(e), e.KernelEpoch, e.Interlude)
	}
	// Prepare fails if the kernel has random state that it can't renew, because all sandboxes that start from the
	// snapshot would draw the same values.
	b.python("import sys, types; sys.modules['torch'] = types.ModuleType('torch')")
	if err := b.Prepare(t.Context(), sandbox.Python); sandbox.KindOf(err) != sandbox.Unavailable || !strings.Contains(err.Error(), "The random values of torch") {
		t.Errorf("Prepare(python) = %v, want unavailable, because torch can't be renewed", err)
	}
	if err := b.Prepare(t.Context(), "cobol"); sandbox.KindOf(err) != sandbox.Invalid {
		t.Errorf("Prepare(cobol) = %v, want invalid", err)
	}
}
