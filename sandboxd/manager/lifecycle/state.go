// Package lifecycle implements the life cycle of one sandbox as an explicit state machine. It decides which
// goroutine may change the state, and when a call may use the sandbox. It does no I/O: package manager calls the
// engine, the store and the guest.
//
//   - [State] and the table of allowed changes: state.go
//   - [Machine], the state of one sandbox with its users; [Machine.Acquire], [Machine.Retain]: machine.go
//   - [Transition], the exclusive right to change the state: transition.go
//
// If the engine cannot write checkpoints, it pauses the sandbox instead of suspending it. A paused sandbox has the
// state Suspended too, because the same rules apply to it. However, a paused sandbox still counts towards the
// limits on running sandboxes; see package capacity.
package lifecycle

import "slices"

// State is a state of a sandbox.
type State int

// The states. Calls may use the guest of a sandbox only in the state Running. The goroutine that holds the
// [Transition] may use it in other states too.
const (
	Provisioning  State = iota // the container is being created
	Running                    // the container runs
	Checkpointing              // the engine writes a checkpoint of a running sandbox
	Forking                    // the engine forks a running or suspended sandbox
	Suspending                 // the engine suspends the sandbox
	Suspended                  // the engine has suspended the sandbox, or may have
	Resuming                   // the engine resumes the sandbox
	Terminating                // the end of the sandbox is being recorded
	Terminated                 // the end of the sandbox is on record; its container may still exist
)

var names = [...]string{"provisioning", "running", "checkpointing", "forking", "suspending", "suspended", "resuming", "terminating", "terminated"}

func (s State) String() string {
	if s < 0 || int(s) >= len(names) {
		return "unknown"
	}
	return names[s]
}

// next contains the states that may follow each state.
//
//   - A state in which the engine works (Checkpointing, Forking, Suspending, Resuming) is followed by the state in
//     which the engine leaves the sandbox, whether the engine succeeds or fails.
//   - Running is followed by Suspended when the engine has suspended the sandbox by itself, for example because
//     its processes died and only a checkpoint is left.
//   - Terminating is followed by the previous state if the end of the sandbox cannot be recorded.
var next = map[State][]State{
	Provisioning:  {Running, Terminating},
	Running:       {Checkpointing, Forking, Suspending, Suspended, Terminating},
	Checkpointing: {Running},
	Forking:       {Running, Suspended},
	Suspending:    {Running, Suspended},
	Suspended:     {Forking, Resuming, Terminating},
	Resuming:      {Running, Suspended},
	Terminating:   {Provisioning, Running, Suspended, Terminated},
	Terminated:    {},
}

// Settled reports whether the sandbox can be in this state while no operation is under way.
func (s State) Settled() bool { return s == Running || s == Suspended || s == Terminated }

// CanBecome reports whether s may be followed by the given state.
func (s State) CanBecome(to State) bool { return slices.Contains(next[s], to) }
