package manager

import (
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// known is a sandbox as the daemon knows it.
type known struct {
	rec  store.Sandbox
	told time.Time // the expiry that its guest knows
	busy bool      // somebody makes or ends it right now
}

// verb says what an action does.
type verb string

const (
	doEnd    verb = "end"    // the record: terminated, for cause and reason
	doRemove verb = "remove" // the container
	doForget verb = "forget" // that there was a container
	doTell   verb = "tell"   // the guest its expiry
	doAgree  verb = "agree"  // the record: running or suspended, and as of when, as the container is
)

const unmade = "the daemon stopped while it was being created"

// action is one step towards records and containers that agree.
type action struct {
	do     verb
	id     sandbox.ID
	cause  store.Cause
	reason string
}

// plan compares what was promised with what there is, and says what to do. When it is done, a
// second plan is empty. It never removes the container of a sandbox that is running or suspended and has time left.
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
