package manager_test

import (
	"math/rand/v2"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/fake"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// epochs contains the highest values of kernel_epoch that a client has received for one sandbox.
type epochs struct {
	id   sandbox.ID
	seen int // the highest epoch in any answer so far
	lost int // the highest epoch in an answer before the last loss of variables
}

// TestEpochsAreNotReused loses the variables of sandboxes in random ways, sometimes together with records that
// the daemon has not written yet. It checks that no kernel_epoch in an answer before a loss is in an answer
// after the loss.
func TestEpochsAreNotReused(t *testing.T) {
	for seed := range uint64(12) {
		synctest.Test(t, func(t *testing.T) { testEpochs(t, seed) })
		if t.Failed() {
			return
		}
	}
}

func testEpochs(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0))
	eng := fake.NewEngine()
	defer eng.Close()
	ctx := t.Context()
	d := startDaemon(t, filepath.Join(t.TempDir(), "a.db"), eng, withCheckpoints)
	defer func() { d.stop(t) }()
	var lines []*epochs
	add := func(req sandbox.CreateRequest, from epochs) {
		from.id = d.create(t, req).ID
		lines = append(lines, &from)
	}
	add(sandbox.CreateRequest{}, epochs{})
	advance(2 * checkpointEvery)
	observe := func(step int, source string, l *epochs, epoch int) {
		if epoch > 0 && epoch <= l.lost {
			t.Errorf("seed %d, step %d: %s has kernel_epoch %d, want more than %d, whose variables were lost", seed, step, source, epoch, l.lost)
		}
		l.seen = max(l.seen, epoch)
	}
	for step := range 40 {
		l := lines[r.IntN(len(lines))]
		switch op := r.IntN(12); op {
		case 0, 1, 2, 3:
			code := []string{"print x", "sleep 1h", "die", "sleep 1h"}[op]
			e := d.execute(t, l.id, code, float64(5*(1-op%2)))
			observe(step, "the answer to "+code, l, e.KernelEpoch)
		case 4:
			eng.Guest(l.id).KillKernel()
		case 5, 6:
			sb, err := d.Get(ctx, string(l.id))
			if err != nil {
				t.Fatalf("seed %d, step %d: Get() = %v", seed, step, err)
			}
			for _, k := range sb.Kernels {
				observe(step, "the answer of Get", l, k.Epoch)
			}
		case 7: // end all executions, so that a checkpoint is made
			for _, e := range unfinished(t, d, l.id) {
				if _, err := d.Interrupt(ctx, string(e)); err != nil {
					t.Fatalf("seed %d, step %d: Interrupt() = %v", seed, step, err)
				}
			}
			advance(2 * checkpointEvery)
		case 8:
			if len(lines) < 3 && len(unfinished(t, d, l.id)) == 0 {
				add(sandbox.CreateRequest{ForkOf: string(l.id)}, *l)
				advance(2 * checkpointEvery)
			}
		case 9:
			time.Sleep(time.Second) // give the store time to write deferred changes
		case 10, 11:
			if op == 11 {
				path := crash(t, d)
				eng.PowerCut()
				d = startDaemon(t, path, eng, withCheckpoints)
			} else {
				eng.PowerCut()
			}
			for _, l := range lines {
				if eng.WillRewind(l.id) {
					l.lost = l.seen
				}
			}
		}
	}
}

// unfinished returns the executions of a sandbox whose end is not on record.
func unfinished(t *testing.T, d *daemon, id sandbox.ID) (ids []sandbox.ExecutionID) {
	t.Helper()
	all, err := d.store.Unfinished(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if e.SandboxID == id {
			ids = append(ids, e.ID)
		}
	}
	return ids
}
