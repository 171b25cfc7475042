package gvisor

import (
	"context"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// List implements [engine.Engine]. It reads the engine's folder and /proc. It neither calls runsc or the guest nor waits
// for a lock.
func (e *Engine) List(context.Context) ([]engine.Container, error) {
	ids, err := e.layout.IDs()
	if err != nil {
		return nil, err
	}
	list := make([]engine.Container, 0, len(ids))
	for _, id := range ids {
		c := e.readState(id)
		if !folder.Exists(e.layout.Sandbox(id)) || e.snapshots.hides(id) {
			continue // the sandbox was removed after IDs had listed it, or will become a snapshot
		}
		list = append(list, c)
	}
	return list, nil
}

// describeExit returns a text that says how the processes of a sandbox have ended. The exit status is unknown, because
// the processes are not children of the daemon.
func (e *Engine) describeExit(id sandbox.ID) string {
	p, alive := e.processOfSandbox(id)
	switch {
	case alive:
		return "is running"
	case p.PID == 0 && folder.Exists(e.layout.Process(id)):
		return "ended, and the record of its process is damaged"
	case p.PID == 0 && folder.Exists(e.layout.Fallback(id)):
		// The record of the sandbox's process was not on disk yet when the power failed.
		return "ended, and the cause is unknown"
	case p.PID == 0:
		return "has neither processes nor saved memory"
	case p.Boot != bootID():
		return "ended when the machine was restarted"
	case e.cgroups.RanOutOfMemory(e.layout.InstanceOf(id).Name):
		return "was killed, out of memory"
	}
	return "exited"
}
