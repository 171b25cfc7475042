//go:build linux

package e2e_test

import (
	"encoding/json"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// newGvisorHome returns a home on the gvisor engine, the only engine with all features that the tests in this file need.
func newGvisorHome(t *testing.T, env ...string) *home {
	t.Helper()
	all := platforms(t)
	gvisor := all[len(all)-1]
	if gvisor.name != "gvisor" {
		skipMissing(t, "gvisor", "needs the gvisor engine, the only one that suspends sandboxes to disk")
	}
	return newHome(t, append(slices.Clone(gvisor.env), env...)...)
}

// processesOf returns the pids of all runsc processes whose arguments contain id. If id is the id of a sandbox on the gvisor
// engine, these are the sandbox's processes. If id is the path of a home, they are the processes of all the home's sandboxes.
func processesOf(id string) (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || !alive(pid) {
			continue
		}
		line, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		name, _, _ := strings.Cut(string(line), "\x00")
		if strings.Contains(filepath.Base(name), "runsc") && strings.Contains(string(line), id) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// killProcesses kills all processes of a sandbox, as a power cut would.
func killProcesses(t *testing.T, id string) {
	t.Helper()
	eventually(t, "the processes of the sandbox have ended", func() bool {
		left := processesOf(id)
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		return len(left) == 0
	})
}

// cgroupsOf returns the folders of a sandbox's cgroups.
func cgroupsOf(id string) (dirs []string) {
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == id {
			dirs = append(dirs, path)
		}
		return nil
	})
	return dirs
}

// wantNothingLeft checks that no file system is mounted below the home, and that no process, cgroup or folder of the sandboxes
// with these ids is left.
func (h *home) wantNothingLeft(t *testing.T, ids []string) {
	t.Helper()
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if strings.Contains(string(mounts), h.dir) {
		t.Errorf("a file system is still mounted below %s", h.dir)
	}
	for _, id := range ids {
		if pids := processesOf(id); len(pids) > 0 {
			t.Errorf("processes %v of the deleted sandbox %s still run", pids, id)
		}
		if dirs := cgroupsOf(id); len(dirs) > 0 {
			t.Errorf("the cgroups %v of the deleted sandbox %s still exist", dirs, id)
		}
		if left, _ := filepath.Glob(filepath.Join(h.dir, "gvisor/sandboxes", id+"*")); len(left) > 0 {
			t.Errorf("the folders %v of the deleted sandbox %s still exist", left, id)
		}
	}
}

// sandboxView contains the fields of get_sandbox's result that these tests use.
type sandboxView struct {
	State       string    `json:"state"`
	SuspendedTo string    `json:"suspended_to"`
	SavedTime   time.Time `json:"saved_time"`
	RewoundTo   time.Time `json:"rewound_to"`
}

func (s session) getSandbox(id string) sandboxView {
	s.t.Helper()
	var v sandboxView
	data, _ := json.Marshal(s.ok("get_sandbox", args{"sandbox_id": id}).Structured)
	if err := json.Unmarshal(data, &v); err != nil {
		s.t.Fatal(err)
	}
	return v
}

func (s session) waitSuspended(id string) {
	s.t.Helper()
	eventually(s.t, "the sandbox is suspended", func() bool { return s.getSandbox(id).State == "suspended" })
}

// waitSaved waits until the sandbox has a checkpoint that is newer than the given time, or until the sandbox is suspended.
func (s session) waitSaved(id string, since time.Time) {
	s.t.Helper()
	eventually(s.t, "the sandbox has a new checkpoint", func() bool {
		v := s.getSandbox(id)
		return v.State == "suspended" || v.SavedTime.After(since)
	})
}

// reboot simulates a reboot of the machine. It kills the daemon and the processes of the sandboxes with these ids. It removes
// the cgroups and sockets of these sandboxes, which a real reboot removes too, and changes the boot id that the engine recorded
// for each sandbox.
func (h *home) reboot(ids ...string) {
	h.t.Helper()
	h.stop(syscall.SIGKILL)
	for _, id := range ids {
		killProcesses(h.t, id)
		for _, dir := range cgroupsOf(id) {
			eventually(h.t, "the cgroup can be removed", func() bool {
				err := os.Remove(dir)
				return err == nil || os.IsNotExist(err)
			})
		}
		for _, socket := range []string{"/run/runsc-" + id + ".sock", "/var/run/runsc-" + id + ".sock", "/tmp/runsc-" + id + ".sock"} {
			_ = os.Remove(socket)
		}
		path := filepath.Join(h.dir, "gvisor/sandboxes", id, "process.json")
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		var p map[string]any
		if err := json.Unmarshal(text, &p); err != nil {
			h.t.Fatal(err)
		}
		p["boot"] = "another"
		text, _ = json.Marshal(p)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			h.t.Fatal(err)
		}
	}
	_ = os.Remove(filepath.Join(h.dir, "sandboxd.sock"))
}

// TestReboot checks that sandboxes continue after a reboot, in both languages, with their variables, a half-consumed
// generator, an open file and a trained model. A sandbox that ran at the time of the reboot must continue from its last
// checkpoint, and its answers must report this.
func TestReboot(t *testing.T) {
	t.Parallel()
	h := newGvisorHome(t, "DORMOUSE_IDLE_SUSPEND=6s", "DORMOUSE_CHECKPOINT_EVERY=500ms")
	s := h.connect(t)
	create := func() string {
		id := s.create(nil)
		s.run(id, `
from sklearn.linear_model import LinearRegression
model = LinearRegression().fit([[1], [2], [3]], [3, 5, 7])
squares = (n * n for n in range(100))
f = open('log', 'w')
f.write('before ')
next(squares), next(squares), next(squares)`, "(0, 1, 4)")
		s.exec(args{"sandbox_id": id, "language": "javascript", "code": "const ids = (function*() { let n = 0; while (true) yield ++n })(); const seen = new Map(); seen.set('a', ids.next().value)"})
		return id
	}
	suspendedID := create()
	s.waitSuspended(suspendedID)
	ran := create()
	s.waitSaved(ran, time.Now())
	late := s.exec(args{"sandbox_id": ran, "code": "late = 'after it was saved'; print('printed late')"})
	asOf := s.getSandbox(ran).SavedTime

	h.reboot(suspendedID, ran)
	s = h.connect(t)
	if v := s.getSandbox(suspendedID); v.State != "suspended" || v.SuspendedTo != "disk" || !v.RewoundTo.IsZero() {
		t.Errorf("after the reboot the suspended sandbox is %+v, want it suspended to disk and not rewound", v)
	}
	if v := s.getSandbox(ran); v.State != "suspended" || v.RewoundTo.Sub(asOf).Abs() > 2*time.Second {
		t.Errorf("after the reboot the sandbox that ran is %+v, want it suspended and rewound to %v", v, asOf)
	}
	for _, id := range []string{suspendedID, ran} {
		r := s.run(id, "f.write('after'); f.close(); [round(x) for x in model.predict([[10], [20]])], next(squares), open('log').read()", "([21, 41], 9, 'before after')")
		if epoch := epochOf(t, r.Text); (epoch == 1) != (id == suspendedID) {
			t.Errorf("kernel_epoch = %d, want 1 if the sandbox was suspended (%t) and a higher one otherwise:\n%s", epoch, id == suspendedID, r.Text)
		}
		s.exec(args{"sandbox_id": id, "language": "javascript", "code": "[seen.get('a'), ids.next().value]"}, "[ 1, 2 ]")
	}
	s.contains(s.run(ran, "'late' in globals()", "False").Text)
	s.contains(s.ok("get_execution", args{"execution_id": executionID(t, late.Text)}).Text, "undone", "as of")
}

// TestMissingRunscKeepsTheSandboxSuspended checks that a suspended sandbox stays suspended and loses nothing if the runsc that
// suspended it is missing. Once this runsc is back, the sandbox must resume.
func TestMissingRunscKeepsTheSandboxSuspended(t *testing.T) {
	t.Parallel()
	h := newGvisorHome(t, "DORMOUSE_IDLE_SUSPEND=1s", "DORMOUSE_CHECKPOINT_EVERY=0")
	s := h.connect(t)
	id := s.create(nil)
	s.run(id, "x = 'kept'")
	s.waitSuspended(id)
	programs, _ := filepath.Glob(filepath.Join(h.dir, "gvisor/bin/runsc-*"))
	if len(programs) != 1 {
		t.Fatalf("the home has the runsc programs %q, want one", programs)
	}
	if err := os.Rename(programs[0], programs[0]+".away"); err != nil {
		t.Fatal(err)
	}
	s.refused("execute_code", args{"sandbox_id": id, "code": "x"}, id, "nothing of it is lost", "gVisor build")
	if v := s.getSandbox(id); v.State != "suspended" {
		t.Errorf("without its runsc the sandbox is %+v, want it suspended", v)
	}
	if err := os.Rename(programs[0]+".away", programs[0]); err != nil {
		t.Fatal(err)
	}
	if r := s.run(id, "x", "kept"); epochOf(t, r.Text) != 1 {
		t.Errorf("kernel_epoch after the resume is not 1:\n%s", r.Text)
	}
}

// TestAKilledDaemonLeavesNoPooledSandbox checks that, after the daemon was killed, the processes of its pooled sandbox end by
// themselves, although no other daemon runs.
func TestAKilledDaemonLeavesNoPooledSandbox(t *testing.T) {
	t.Parallel()
	h := newGvisorHome(t)
	s := h.connect(t)
	id := s.create(nil)
	s.run(id, "1 + 1", "2")
	eventually(t, "the home has a snapshot and a pooled sandbox", func() bool {
		snapshots, _ := filepath.Glob(filepath.Join(h.dir, "gvisor", "snapshots", "*", "checkpoint", "manifest.json"))
		pooled, _ := filepath.Glob(filepath.Join(h.dir, "gvisor", "spares", "*", "pid"))
		return len(snapshots) > 0 && len(pooled) > 0
	})
	s.ok("delete_sandbox", args{"sandbox_id": id})
	if len(processesOf(h.dir)) == 0 {
		t.Fatal("the pooled sandbox does not run before the daemon is killed")
	}
	h.stop(syscall.SIGKILL)
	eventually(t, "no process of the home's sandboxes runs", func() bool { return len(processesOf(h.dir)) == 0 })
}

// TestHibernation does random operations on sandboxes and their daemon, and compares the sandboxes with a model. Each sandbox
// counts in a variable in each language; the model has the expected values. A counter may lose increments only if the
// processes of its sandbox were killed. The counter must then have the value that it had at a checkpoint, and the kernel_epoch
// must have grown. DORMOUSE_TEST_HIBERNATION sets the duration of the test, such as 10m. DORMOUSE_TEST_SEED repeats the random
// choices of an earlier run, which logged its seed.
func TestHibernation(t *testing.T) {
	t.Parallel()
	h := newGvisorHome(t, "DORMOUSE_IDLE_SUSPEND=2s", "DORMOUSE_CHECKPOINT_EVERY=300ms")
	long := 20 * time.Second
	if d, err := time.ParseDuration(os.Getenv("DORMOUSE_TEST_HIBERNATION")); err == nil {
		long = d
	}
	seed := rand.Uint64()
	if n, err := strconv.ParseUint(os.Getenv("DORMOUSE_TEST_SEED"), 10, 64); err == nil {
		seed = n
	}
	t.Logf("seed %d", seed)
	w := &simulation{t: t, h: h, r: rand.New(rand.NewPCG(seed, 0)), s: h.connect(t), operationCounts: map[string]int{}}
	w.create()
	for deadline := time.Now().Add(long); time.Now().Before(deadline) && !t.Failed(); {
		w.step()
	}
	w.check()
	t.Logf("%d steps: %v", w.steps, w.operationCounts)
	for _, b := range w.sandboxes {
		w.s.ok("delete_sandbox", args{"sandbox_id": b.id})
	}
	h.wantNothingLeft(t, w.ids)
}

// simulation is the state of TestHibernation: the home that it changes, and the model of its sandboxes.
type simulation struct {
	t               *testing.T
	h               *home
	r               *rand.Rand
	s               session
	sandboxes       []*counters
	ids             []string // the ids of all sandboxes that the test has created, including deleted sandboxes
	steps           int
	operationCounts map[string]int
}

// counters is the model of one sandbox: the expected values of its counters.
type counters struct {
	id            string
	n             map[string]int // the value of the counter of each language
	epoch         map[string]int
	history       []counterValues // all values of the counters so far, in the order of time
	rewindPending bool            // the processes were killed, and the model is not yet set to the restored checkpoint
}

// counterValues contains the values that a sandbox's counters had from a time (the field at) until their next change.
type counterValues struct {
	at time.Time
	n  map[string]int
}

var languages = []string{"python", "javascript"}

func (w *simulation) create() {
	w.add(w.s.create(nil), map[string]int{"python": 0, "javascript": 0}, nil)
}

func (w *simulation) add(id string, n, epoch map[string]int) {
	b := &counters{id: id, n: map[string]int{}, epoch: map[string]int{"python": 1, "javascript": 1}}
	for _, lang := range languages {
		b.n[lang] = n[lang]
		if epoch != nil {
			b.epoch[lang] = epoch[lang]
		}
	}
	b.recordCounters()
	w.sandboxes = append(w.sandboxes, b)
	w.ids = append(w.ids, id)
}

func (b *counters) recordCounters() {
	b.history = append(b.history, counterValues{time.Now(), maps.Clone(b.n)})
}

var countCode = map[string]string{
	"python":     "n = globals().get('n', 0) + 1\nprint('counted', n)",
	"javascript": "var n = (globalThis.n ?? 0) + 1; console.log('counted', n)",
}

var counted = regexp.MustCompile(`counted (\d+)`)

// count runs code in the sandbox that increments the counter of the language lang. It returns the counter's new value, the
// kernel_epoch and the text of the answer. It does not change the model.
func (w *simulation) count(s session, b *counters, lang string) (n, epoch int, text string) {
	r := s.call("execute_code", args{"sandbox_id": b.id, "language": lang, "code": countCode[lang]})
	m := counted.FindStringSubmatch(r.Text)
	if r.IsError || m == nil {
		w.t.Fatalf("step %d: the increment in %s failed: %s", w.steps, b.id, r.Text)
	}
	n, _ = strconv.Atoi(m[1])
	return n, epochOf(w.t, r.Text), r.Text
}

// operations lists the operations from which the method step chooses at random. An operation that is listed more than once is
// chosen more often.
var operations = []string{
	"count", "count", "count", "count", "count", "count", "twice", "twice", "suspend", "save", "save",
	"kill the daemon", "kill the daemon", "kill the sandbox", "kill the sandbox", "kill the sandbox", "fork", "fork", "delete", "delete during a resume",
}

// step does one random operation of the simulation.
func (w *simulation) step() {
	w.steps++
	b := w.sandboxes[w.r.IntN(len(w.sandboxes))]
	lang := languages[w.r.IntN(2)]
	do := operations[w.r.IntN(len(operations))]
	w.operationCounts[do]++
	switch do {
	case "count":
		w.expect(b, lang)
	case "twice":
		w.resolveRewind(b)
		got := make([]int, 2)
		var both sync.WaitGroup
		for i := range got {
			both.Go(func() { got[i], _, _ = w.count(w.s, b, lang) })
		}
		both.Wait()
		b.n[lang] += 2
		b.recordCounters()
		if slices.Sort(got); got[0] != b.n[lang]-1 || got[1] != b.n[lang] {
			w.t.Errorf("step %d: two concurrent increments returned %v, want %d and %d", w.steps, got, b.n[lang]-1, b.n[lang])
		}
	case "suspend":
		w.s.waitSuspended(b.id)
	case "save":
		w.s.waitSaved(b.id, b.history[len(b.history)-1].at)
	case "kill the daemon":
		// Kill the daemon at a random moment, perhaps during a checkpoint or a suspend.
		time.Sleep(time.Duration(w.r.IntN(400)) * time.Millisecond)
		w.h.stop(syscall.SIGKILL)
		w.s.Close()
		w.s = w.h.connect(w.t)
	case "kill the sandbox":
		w.killSandbox(b)
	case "fork":
		if len(w.sandboxes) > 3 {
			return
		}
		w.resolveRewind(b)
		id := w.s.ok("create_sandbox", args{"fork_of": b.id}).Structured["id"].(string)
		w.add(id, b.n, b.epoch)
	case "delete":
		if len(w.sandboxes) > 1 {
			w.s.ok("delete_sandbox", args{"sandbox_id": b.id})
			w.removeSandbox(b)
		}
	case "delete during a resume":
		if len(w.sandboxes) > 2 {
			w.resolveRewind(b)
			w.s.waitSuspended(b.id)
			var resuming sync.WaitGroup
			resuming.Go(func() { _, _ = w.s.Call(w.s.ctx, "execute_code", args{"sandbox_id": b.id, "code": "1"}) })
			time.Sleep(time.Duration(w.r.IntN(300)) * time.Millisecond) // delete the sandbox at a random moment of the resume
			w.s.ok("delete_sandbox", args{"sandbox_id": b.id})
			resuming.Wait()
			w.removeSandbox(b)
		}
	}
}

// killSandbox kills the processes of a sandbox. A running sandbox then goes back to its last checkpoint. A running sandbox
// without a checkpoint is lost, and the answer to the next call must report this.
func (w *simulation) killSandbox(b *counters) {
	w.resolveRewind(b)
	before := w.s.getSandbox(b.id)
	killProcesses(w.t, b.id)
	if before.State == "suspended" {
		return
	}
	b.rewindPending = true
	if before.SavedTime.IsZero() {
		r := w.s.call("execute_code", args{"sandbox_id": b.id, "language": "python", "code": countCode["python"]})
		// If the code still runs, the sandbox has a checkpoint after all: the checkpoint was made just before the processes were
		// killed, or the daemon was killed before it recorded the checkpoint.
		if m := counted.FindStringSubmatch(r.Text); !r.IsError && m != nil {
			n, _ := strconv.Atoi(m[1])
			w.expectRewind(b, "python", n, epochOf(w.t, r.Text), r.Text)
			return
		}
		if !strings.Contains(r.Text, "lost") {
			w.t.Errorf("step %d: the sandbox was killed and has no checkpoint; the answer does not say that it is lost: %s", w.steps, r.Text)
		}
		w.operationCounts["lost"]++
		w.removeSandbox(b)
		if len(w.sandboxes) == 0 {
			w.create()
		}
	}
}

func (w *simulation) removeSandbox(b *counters) {
	w.sandboxes = slices.DeleteFunc(w.sandboxes, func(o *counters) bool { return o == b })
}

// resolveRewind calls expect if the processes of the sandbox were killed. expect then sets the model to the checkpoint to
// which the sandbox went back.
func (w *simulation) resolveRewind(b *counters) {
	if b.rewindPending {
		w.expect(b, languages[w.r.IntN(2)])
	}
}

// expect increments a counter in the sandbox and in the model, and compares their values. If the processes of the sandbox were
// killed since the last call, expect calls expectRewind instead.
func (w *simulation) expect(b *counters, lang string) {
	w.t.Helper()
	n, epoch, text := w.count(w.s, b, lang)
	if b.rewindPending {
		w.expectRewind(b, lang, n, epoch, text)
		return
	}
	b.n[lang]++
	if n != b.n[lang] || epoch != b.epoch[lang] {
		w.t.Errorf("step %d: %s of %s counted to %d in kernel_epoch %d, want %d in %d:\n%s", w.steps, lang, b.id, n, epoch, b.n[lang], b.epoch[lang], text)
	}
	b.recordCounters()
}

// expectRewind checks that the sandbox went back to the state that it had at the time rewound_to, which get_sandbox returns,
// and sets the model to this state. n, epoch and text are the results of the first call of count after the processes were
// killed.
func (w *simulation) expectRewind(b *counters, lang string, n, epoch int, text string) {
	w.t.Helper()
	b.rewindPending = false
	first := time.Now()
	v := w.s.getSandbox(b.id)
	other := languages[0]
	if other == lang {
		other = languages[1]
	}
	otherN, otherEpoch, otherText := w.count(w.s, b, other)
	got := map[string]int{lang: n - 1, other: otherN - 1}
	const slack = time.Second // the longest time from the increment of a counter to the answer that reports the increment
	grew := epoch > b.epoch[lang] && otherEpoch > b.epoch[other]
	// If the sandbox was suspended just before its processes were killed, it has lost nothing.
	ok := !grew && epoch == b.epoch[lang] && otherEpoch == b.epoch[other] && maps.Equal(got, b.n)
	for i, m := range b.history {
		until := time.Now()
		if i+1 < len(b.history) {
			until = b.history[i+1].at
		}
		ok = ok || grew && maps.Equal(got, m.n) && !v.RewoundTo.Before(m.at.Add(-slack)) && !v.RewoundTo.After(until)
	}
	if !ok {
		w.t.Errorf("step %d: %s was rewound to the counters %v of %v, want counters that it had at that time: %v; the kernel_epochs are %d and %d, and were %v", w.steps, b.id, got, v.RewoundTo, b.history, epoch, otherEpoch, b.epoch)
	}
	if grew {
		w.s.contains(text, "restored as they had been at")
		w.s.contains(otherText, "restored as they had been at")
		w.operationCounts["rewound"]++
	}
	// A checkpoint may have been made after the first counter was incremented and before the other counter was.
	b.history = append(b.history, counterValues{first, map[string]int{lang: n, other: otherN - 1}})
	b.n, b.epoch = map[string]int{lang: n, other: otherN}, map[string]int{lang: epoch, other: otherEpoch}
	b.recordCounters()
}

// check increments all counters of all sandboxes and compares them with the model.
func (w *simulation) check() {
	w.steps++
	for _, b := range w.sandboxes {
		for _, lang := range languages {
			w.expect(b, lang)
		}
	}
}
