package docker

import "errors"

// removeCopies removes the copies of a container's memory that containerd left when the memory was saved or restored.
// sum is the checksum of the checkpoint, or empty if it is unknown. The caller must hold the sandbox's lock
// in e.changes, so that no restore reads the copies. Only [New] calls removeCopies without the lock,
// because no other call can use the Engine yet.
func (e *Engine) removeCopies(container, sum string) error {
	var errs []error
	for _, place := range e.facts.CopyPlaces {
		errs = append(errs, removeCopies(place, container, sum))
	}
	return errors.Join(errs...)
}
