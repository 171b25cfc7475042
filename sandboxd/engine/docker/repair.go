package docker

import (
	"context"
	"fmt"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
)

// repairAfterCrash repairs the state that a killed daemon or engine has left. It ends containers that still run
// although their sandbox is suspended, and unpauses containers that are frozen although the engine reports them as
// running. For all sandboxes, it removes the copies of memory that containerd has left. A container that it can't repair
// causes a warning, and is repaired when its sandbox is resumed or removed.
func (e *Engine) repairAfterCrash(ctx context.Context) error {
	all, err := e.listContainers(ctx)
	if err != nil {
		return err
	}
	for _, s := range all {
		// If the daemon was killed during a resume or fork, the engine may still be starting the container from a
		// checkpoint. The engine answers an inspect only after that start, when the copies are no longer read.
		_, err := e.api.ContainerInspect(ctx, s.container)
		if err == nil {
			err = e.removeCopies(s.container, checkpointInName(s.name).sum)
		}
		if err != nil && !cerrdefs.IsNotFound(err) {
			e.info.Warnings = append(e.info.Warnings, fmt.Sprintf("sandbox %s: copies of its memory may be left in %s: %v", s.id, strings.Join(e.facts.CopyPlaces, ", "), err))
		}
		if s.state != container.StateRunning {
			continue
		}
		err = nil
		if checkpointInName(s.name).name != "" {
			err = e.end(ctx, s.container)
		} else if e.info.Suspend == engine.ToDisk {
			err = e.unfreeze(ctx, s.container)
		}
		if err != nil {
			e.info.Warnings = append(e.info.Warnings, fmt.Sprintf("sandbox %s: a suspend was interrupted, and its container could not be repaired: check that the engine works; the next resume tries again", s.id))
		}
	}
	return nil
}
