package reconcile_test

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/reconcile"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

var (
	planNow = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	later   = planNow.Add(time.Hour)
	earlier = planNow.Add(-time.Hour)
)

func rec(state sandbox.State, expire time.Time, container bool) *reconcile.Known {
	return &reconcile.Known{Record: store.Sandbox{ID: "s", State: state, ExpireTime: expire, Container: container}}
}

// TestPlan checks the plan for combinations of a record and the state of its container.
func TestPlan(t *testing.T) {
	absent, running, dead, suspended := "absent", "running", "dead", "suspended"
	current := rec(sandbox.Running, later, true)
	current.GuestExpiry = later
	busy := rec(sandbox.Provisioning, later, true)
	busy.Busy = true
	for _, c := range []struct {
		name  string
		known *reconcile.Known
		want  map[string]string // the expected actions, by the state of the container
	}{
		{"no record", nil, map[string]string{suspended: "remove", absent: "", running: "remove", dead: "remove"}},
		{"creation interrupted", rec(sandbox.Provisioning, later, true), map[string]string{suspended: "terminate:failed remove", absent: "terminate:failed mark removed", running: "terminate:failed remove", dead: "terminate:failed remove"}},
		{"being created", busy, map[string]string{suspended: "", absent: "", running: "", dead: ""}},
		{"running, guest without the expiry", rec(sandbox.Running, later, true), map[string]string{absent: "terminate:lost mark removed", running: "set expiry", dead: "terminate:lost remove", suspended: "adopt"}},
		{"running, guest with the expiry", current, map[string]string{absent: "terminate:lost mark removed", running: "", dead: "terminate:lost remove", suspended: "adopt"}},
		{"suspended", rec(sandbox.Suspended, later, true), map[string]string{absent: "terminate:lost mark removed", running: "adopt", dead: "terminate:lost remove", suspended: ""}},
		{"suspended and expired", rec(sandbox.Suspended, earlier, true), map[string]string{absent: "terminate:expired mark removed", running: "terminate:expired remove", dead: "terminate:expired remove", suspended: "terminate:expired remove"}},
		{"running and expired", rec(sandbox.Running, earlier, true), map[string]string{suspended: "terminate:expired remove", absent: "terminate:expired mark removed", running: "terminate:expired remove", dead: "terminate:expired remove"}},
		{"running and expiring now", rec(sandbox.Running, planNow, true), map[string]string{absent: "terminate:expired mark removed", running: "terminate:expired remove", dead: "terminate:expired remove"}},
		{"terminated, container not removed", rec(sandbox.Terminated, later, true), map[string]string{absent: "mark removed", running: "remove", dead: "remove"}},
		{"terminated, container removed", rec(sandbox.Terminated, later, false), map[string]string{absent: "", running: "remove", dead: "remove"}},
	} {
		for container, want := range c.want {
			t.Run(c.name+", container "+container, func(t *testing.T) {
				var known []reconcile.Known
				if c.known != nil {
					known = append(known, *c.known)
				}
				var containers []engine.Container
				if container != absent {
					containers = append(containers, engine.Container{ID: "s", Running: container == running, Suspended: container == suspended, Detail: "exited with 137"})
				}
				var got []string
				for _, a := range reconcile.Plan(known, containers, planNow) {
					s := string(a.Do)
					if a.Do == reconcile.Terminate {
						s += ":" + string(a.Cause)
						if a.Reason == "" {
							t.Error("a terminated sandbox has no reason")
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
		known := map[sandbox.ID]*reconcile.Known{}
		containers := map[sandbox.ID]engine.Container{}
		for i := range r.IntN(8) {
			id := sandbox.ID(rune('a' + i))
			if r.IntN(5) > 0 {
				k := rec(states[r.IntN(len(states))], planNow.Add(time.Duration(r.IntN(7)-3)*time.Hour), true)
				k.Record.ID = id
				if k.Record.State == sandbox.Terminated {
					k.Record.Container = r.IntN(2) == 0
				}
				known[id] = k
			}
			if r.IntN(3) > 0 {
				containers[id] = []engine.Container{{ID: id, Running: true}, {ID: id, Suspended: true}, {ID: id}}[r.IntN(3)]
			}
		}
		lists := func() (ks []reconcile.Known, cs []engine.Container) {
			for _, k := range known {
				ks = append(ks, *k)
			}
			for _, c := range containers {
				cs = append(cs, c)
			}
			return ks, cs
		}
		ks, cs := lists()
		for _, a := range reconcile.Plan(ks, cs, planNow) {
			k := known[a.ID]
			switch a.Do {
			case reconcile.Terminate:
				k.Record.State, k.Record.Cause = sandbox.Terminated, a.Cause
			case reconcile.Remove:
				if k != nil && (k.Record.State == sandbox.Running || k.Record.State == sandbox.Suspended) {
					t.Fatalf("seed %d: the container of a running sandbox is removed: %+v", seed, k)
				}
				delete(containers, a.ID)
				if k != nil {
					k.Record.Container = false
				}
			case reconcile.MarkRemoved:
				k.Record.Container = false
			case reconcile.Adopt:
				k.Record.State = sandbox.Running
				if containers[a.ID].Suspended {
					k.Record.State = sandbox.Suspended
				}
			case reconcile.SetExpiry:
				k.GuestExpiry = k.Record.ExpireTime
			}
		}
		for _, k := range known { // the manager also sets the guest's expiry when it carries out Adopt for a running container
			if c := containers[k.Record.ID]; c.Running && k.Record.State == sandbox.Running {
				k.GuestExpiry = k.Record.ExpireTime
			}
		}
		ks, cs = lists()
		if again := reconcile.Plan(ks, cs, planNow); len(again) != 0 {
			t.Fatalf("seed %d: the second plan is %+v, want none", seed, again)
		}
		for id := range containers {
			if k := known[id]; k == nil || k.Record.State == sandbox.Terminated || k.Record.State == sandbox.Provisioning {
				t.Fatalf("seed %d: container %s is an orphan", seed, id)
			}
		}
	}
}
