package gvisor

import (
	"context"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// List implements [engine.Engine]. It reads the engine's folder and /proc, and asks nobody.
func (e *Engine) List(context.Context) ([]engine.Container, error) {
	ids, err := e.layout.ids()
	if err != nil {
		return nil, err
	}
	list := make([]engine.Container, 0, len(ids))
	for _, id := range ids {
		c := e.look(id)
		if !exists(e.layout.box(id)) || e.snapshots.hides(id) {
			continue // removed meanwhile, or nobody's
		}
		list = append(list, c)
	}
	return list, nil
}

// ending says how a sandbox that does not run has ended. Nobody waits for it, so its
// exit status is not known.
func (e *Engine) ending(id sandbox.ID) string {
	p, alive := e.layout.processOfBox(id)
	switch {
	case alive:
		return "is running"
	case p.PID == 0 && exists(e.layout.process(id)):
		return "ended, and the record of its process is damaged"
	case p.PID == 0 && exists(e.layout.kept(id)):
		return "ended, and nothing says how" // its process was not on disk yet when the power failed
	case p.PID == 0:
		return "nothing of it runs, and no saved memory is there"
	case p.Boot != bootID():
		return "ended with the machine, which was started anew"
	case e.cgroups.ranOutOfMemory(e.layout.instanceOf(id).name):
		return "was killed, out of memory"
	}
	return "exited"
}
