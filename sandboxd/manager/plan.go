package manager

import (
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// known is a sandbox as the manager's records describe it.
type known struct {
	rec  store.Sandbox
	told time.Time // the expiry that the sandbox's guest has
	busy bool      // being created or removed, or in a transition: plan returns no action for the sandbox
}

// verb is the kind of an action.
type verb string

const (
	doEnd    verb = "end"    // mark the record as terminated, with cause and reason
	doRemove verb = "remove" // remove the container
	doForget verb = "forget" // record that there is no container any more
	doTell   verb = "tell"   // set the expiry of the guest
	doAgree  verb = "agree"  // set the record to the container's state: running, suspended, or suspended as of an earlier time
)

const unmade = "the daemon stopped while it was being created"

// action is one change that is needed to make the records and the containers agree.
type action struct {
	do     verb
	id     sandbox.ID
	cause  store.Cause
	reason string
}

// plan compares the records with the engine's containers and returns the actions that make them agree. After
// these actions, a second plan is empty. While a sandbox is recorded as running or suspended and has not
// expired, plan does not remove its container, unless the container is dead.
func plan(sandboxes []known, containers []engine.Container, now time.Time) []action {
	var todo []action
	there := make(map[sandbox.ID]engine.Container, len(containers))
	for _, c := range containers {
		there[c.ID] = c
	}
	recorded := make(map[sandbox.ID]bool, len(sandboxes))
	for _, k := range sandboxes {
		recorded[k.rec.ID] = true
		if c, ok := there[k.rec.ID]; !k.busy {
			todo = append(todo, planOne(k, c, ok, now)...)
		}
	}
	for _, c := range containers {
		if !recorded[c.ID] {
			todo = append(todo, action{do: doRemove, id: c.ID, reason: "it has no record"})
		}
	}
	return todo
}

func planOne(k known, c engine.Container, there bool, now time.Time) []action {
	id := k.rec.ID
	clear := action{do: doForget, id: id}
	if there {
		clear = action{do: doRemove, id: id, reason: "its sandbox has ended"}
	}
	var cause store.Cause
	var reason string
	switch {
	case k.rec.State == sandbox.Terminated && !k.rec.Container && !there:
		return nil
	case k.rec.State == sandbox.Terminated:
		return []action{clear}
	case k.rec.State == sandbox.Provisioning:
		cause, reason = store.CauseFailed, unmade
	case there && c.Suspended && now.Before(k.rec.ExpireTime):
		if r := k.rec.Rewound; k.rec.State == sandbox.Suspended && (c.AsOf.IsZero() || r.Owed && r.AsOf.Equal(c.AsOf)) {
			return nil
		}
		return []action{{do: doAgree, id: id}}
	case there && c.Running && k.rec.State == sandbox.Suspended && now.Before(k.rec.ExpireTime):
		return []action{{do: doAgree, id: id}}
	case there && c.Running && now.Before(k.rec.ExpireTime):
		if k.told.Equal(k.rec.ExpireTime) {
			return nil
		}
		return []action{{do: doTell, id: id}}
	default:
		cause, reason = whyDead(k.rec, c, there, now)
	}
	return []action{{do: doEnd, id: id, cause: cause, reason: reason}, clear}
}
