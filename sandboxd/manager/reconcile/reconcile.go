// Package reconcile compares the recorded sandboxes with the containers of the engine, and plans the actions that
// remove the differences. It does no I/O: package manager gets both lists and runs the actions.
//
// If the two lists differ, the records decide which sandboxes exist for clients, and the engine decides which
// sandboxes run. A recorded sandbox whose container does not run is terminated, with the reason. A container without a
// record is removed.
package reconcile

import (
	"fmt"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// Known is a sandbox in the manager's registry.
type Known struct {
	Record store.Sandbox
	// GuestExpiry is the expiry that the sandbox's guest has. It is zero if it is unknown.
	GuestExpiry time.Time
	// Busy is true while the sandbox changes, for example while it is created, suspended, resumed or removed. [Plan]
	// returns no action for a busy sandbox.
	Busy bool
}

// Verb is the kind of an [Action].
type Verb string

// The kinds of actions.
const (
	Terminate   Verb = "terminate"    // mark the record as terminated, with Cause and Reason
	Remove      Verb = "remove"       // remove the container
	MarkRemoved Verb = "mark removed" // record that there is no container any more
	SetExpiry   Verb = "set expiry"   // set the expiry of the guest
	Adopt       Verb = "adopt"        // set the record to the container's state: running, suspended, or rewound to an earlier checkpoint
)

// Action is one change that is needed to remove a difference between the records and the containers.
type Action struct {
	Do     Verb
	ID     sandbox.ID
	Cause  store.Cause // for Terminate: the cause to record
	Reason string      // for Terminate: the reason to record; for Remove: the reason to log
}

// Interrupted is the reason to record for a sandbox that a daemon was creating when it stopped.
const Interrupted = "the daemon stopped while it was being created"

// Plan returns the actions that remove the differences between the records and the containers. A second plan, made
// after these actions, is empty. Plan does not remove the container of a sandbox that is recorded as running or
// suspended, unless the sandbox has expired or its container has died.
func Plan(sandboxes []Known, containers []engine.Container, now time.Time) []Action {
	var todo []Action
	existing := make(map[sandbox.ID]engine.Container, len(containers))
	for _, c := range containers {
		existing[c.ID] = c
	}
	recorded := make(map[sandbox.ID]bool, len(sandboxes))
	for _, k := range sandboxes {
		recorded[k.Record.ID] = true
		if c, exists := existing[k.Record.ID]; !k.Busy {
			todo = append(todo, planOne(k, c, exists, now)...)
		}
	}
	for _, c := range containers {
		if !recorded[c.ID] {
			todo = append(todo, Action{Do: Remove, ID: c.ID, Reason: "it has no record"})
		}
	}
	return todo
}

// planOne returns the actions for one sandbox. If the engine has no container for it, exists is false and c is
// empty.
func planOne(k Known, c engine.Container, exists bool, now time.Time) []Action {
	id := k.Record.ID
	removal := Action{Do: MarkRemoved, ID: id}
	if exists {
		removal = Action{Do: Remove, ID: id, Reason: "its sandbox was terminated"}
	}
	var cause store.Cause
	var reason string
	switch {
	case k.Record.State == sandbox.Terminated && !k.Record.Container && !exists:
		return nil
	case k.Record.State == sandbox.Terminated:
		return []Action{removal}
	case k.Record.State == sandbox.Provisioning:
		cause, reason = store.CauseFailed, Interrupted
	case exists && c.Suspended && now.Before(k.Record.ExpireTime):
		if r := k.Record.Rewound; k.Record.State == sandbox.Suspended && (c.AsOf.IsZero() || r.Unreported && r.AsOf.Equal(c.AsOf)) {
			return nil
		}
		return []Action{{Do: Adopt, ID: id}}
	case exists && c.Running && k.Record.State == sandbox.Suspended && now.Before(k.Record.ExpireTime):
		return []Action{{Do: Adopt, ID: id}}
	case exists && c.Running && now.Before(k.Record.ExpireTime):
		if k.GuestExpiry.Equal(k.Record.ExpireTime) {
			return nil
		}
		return []Action{{Do: SetExpiry, ID: id}}
	default:
		cause, reason = WhyDead(k.Record, c, exists, now)
	}
	return []Action{{Do: Terminate, ID: id, Cause: cause, Reason: reason}, removal}
}

// WhyDead returns the cause and the reason to record for a sandbox that has expired or whose container does not
// run. If the engine has no container for it, exists is false and c is empty.
func WhyDead(rec store.Sandbox, c engine.Container, exists bool, now time.Time) (store.Cause, string) {
	switch {
	case !now.Before(rec.ExpireTime):
		return store.CauseExpired, ExpiredReason(rec)
	case !exists:
		return store.CauseLost, "its container no longer exists (a person or a program removed it, or the engine lost it): its variables and files are lost"
	case c.Detail == "":
		return store.CauseLost, "its container stopped: its variables and files are lost"
	}
	return store.CauseLost, fmt.Sprintf("its container stopped (%s): its variables and files are lost", c.Detail)
}

// ExpiredReason returns the reason to record for a sandbox that reached the end of its TTL.
func ExpiredReason(rec store.Sandbox) string {
	return "its TTL ended at " + rec.ExpireTime.UTC().Format(time.RFC3339)
}
