package manager_test

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

var (
	planNow = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	later   = planNow.Add(time.Hour)
	earlier = planNow.Add(-time.Hour)
)

func rec(state sandbox.State, expire time.Time, container bool) *manager.Known {
	return &manager.Known{Rec: store.Sandbox{ID: "s", State: state, ExpireTime: expire, Container: container}}
}

// TestPlan checks the plan for each combination of a record and the state of its container.
func TestPlan(t *testing.T) {
	absent, running, dead, asleep := "absent", "running", "dead", "asleep"
	told := rec(sandbox.Running, later, true)
	told.Told = later
	busy := rec(sandbox.Provisioning, later, true)
	busy.Busy = true
	for _, c := range []struct {
		name  string
		known *manager.Known
		want  map[string]string // the expected actions, by the state of the container
	}{
		{"no record", nil, map[string]string{asleep: "remove", absent: "", running: "remove", dead: "remove"}},
		{"left half-made", rec(sandbox.Provisioning, later, true), map[string]string{asleep: "end:failed remove", absent: "end:failed forget", running: "end:failed remove", dead: "end:failed remove"}},
		{"being made now", busy, map[string]string{asleep: "", absent: "", running: "", dead: ""}},
		{"running, its guest not told", rec(sandbox.Running, later, true), map[string]string{absent: "end:lost forget", running: "tell", dead: "end:lost remove", asleep: "agree"}},
		{"running, its guest told", told, map[string]string{absent: "end:lost forget", running: "", dead: "end:lost remove", asleep: "agree"}},
		{"suspended", rec(sandbox.Suspended, later, true), map[string]string{absent: "end:lost forget", running: "agree", dead: "end:lost remove", asleep: ""}},
		{"suspended, its time over", rec(sandbox.Suspended, earlier, true), map[string]string{absent: "end:expired forget", running: "end:expired remove", dead: "end:expired remove", asleep: "end:expired remove"}},
		{"running, its time over", rec(sandbox.Running, earlier, true), map[string]string{asleep: "end:expired remove", absent: "end:expired forget", running: "end:expired remove", dead: "end:expired remove"}},
		{"running, its time over now", rec(sandbox.Running, planNow, true), map[string]string{absent: "end:expired forget", running: "end:expired remove", dead: "end:expired remove"}},
		{"terminated, container not known gone", rec(sandbox.Terminated, later, true), map[string]string{absent: "forget", running: "remove", dead: "remove"}},
		{"terminated, container gone", rec(sandbox.Terminated, later, false), map[string]string{absent: "", running: "remove", dead: "remove"}},
	} {
		for container, want := range c.want {
			t.Run(c.name+", container "+container, func(t *testing.T) {
				var known []manager.Known
				if c.known != nil {
					known = append(known, *c.known)
				}
				var containers []engine.Container
				if container != absent {
					containers = append(containers, engine.Container{ID: "s", Running: container == running, Suspended: container == asleep, Detail: "exited with 137"})
				}
				var got []string
				for _, a := range manager.Plan(known, containers, planNow) {
					s := a.Do
					if a.Do == "end" {
						s += ":" + string(a.Cause)
						if a.Reason == "" {
							t.Error("an end has no reason")
						}
					}
					got = append(got, s)
				}
				if strings.Join(got, " ") != want {
					t.Errorf("Plan() = %q, want %q", got, want)
				}
			})
		}
	}
}

// TestPlanConverges checks plans for random sets of records and containers. A second plan, made after the
// actions of the first plan, must be empty. No sandbox that is recorded as running or suspended may lose its
// container.
func TestPlanConverges(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	states := []sandbox.State{sandbox.Provisioning, sandbox.Running, sandbox.Suspended, sandbox.Terminated}
	for range 2000 {
		known := map[sandbox.ID]*manager.Known{}
		containers := map[sandbox.ID]engine.Container{}
		for i := range r.IntN(8) {
			id := sandbox.ID(rune('a' + i))
			if r.IntN(5) > 0 {
				k := rec(states[r.IntN(len(states))], planNow.Add(time.Duration(r.IntN(7)-3)*time.Hour), true)
				k.Rec.ID = id
				if k.Rec.State == sandbox.Terminated {
					k.Rec.Container = r.IntN(2) == 0
				}
				known[id] = k
			}
			if r.IntN(3) > 0 {
				containers[id] = []engine.Container{{ID: id, Running: true}, {ID: id, Suspended: true}, {ID: id}}[r.IntN(3)]
			}
		}
		lists := func() (ks []manager.Known, cs []engine.Container) {
			for _, k := range known {
				ks = append(ks, *k)
			}
			for _, c := range containers {
				cs = append(cs, c)
			}
			return ks, cs
		}
		ks, cs := lists()
		for _, a := range manager.Plan(ks, cs, planNow) {
			k := known[a.ID]
			switch a.Do {
			case "end":
				k.Rec.State, k.Rec.Cause = sandbox.Terminated, a.Cause
			case "remove":
				if k != nil && (k.Rec.State == sandbox.Running || k.Rec.State == sandbox.Suspended) {
					t.Fatalf("seed %d: the container of a running sandbox is removed: %+v", seed, k)
				}
				delete(containers, a.ID)
				if k != nil {
					k.Rec.Container = false
				}
			case "forget":
				k.Rec.Container = false
			case "agree":
				k.Rec.State = sandbox.Running
				if containers[a.ID].Suspended {
					k.Rec.State = sandbox.Suspended
				}
			case "tell":
				k.Told = k.Rec.ExpireTime
			}
		}
		for _, k := range known { // the manager also sets the guest's expiry when it carries out "agree" for a running container
			if c := containers[k.Rec.ID]; c.Running && k.Rec.State == sandbox.Running {
				k.Told = k.Rec.ExpireTime
			}
		}
		ks, cs = lists()
		if again := manager.Plan(ks, cs, planNow); len(again) != 0 {
			t.Fatalf("seed %d: the second plan is %+v, want none", seed, again)
		}
		for id := range containers {
			if k := known[id]; k == nil || k.Rec.State == sandbox.Terminated || k.Rec.State == sandbox.Provisioning {
				t.Fatalf("seed %d: container %s is an orphan", seed, id)
			}
		}
	}
}
