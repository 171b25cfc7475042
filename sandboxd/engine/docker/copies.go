package docker

import "errors"

// removeCopies removes the copies that containerd has left of a container's memory, when it was saved or restored. sum is the sum
// of the checkpoint, if it is known. The caller has the container's turn, so that nothing restores from them.
func (e *Engine) removeCopies(container, sum string) error {
	var errs []error
	for _, place := range e.facts.CopyPlaces {
		errs = append(errs, removeCopies(place, container, sum))
	}
	return errors.Join(errs...)
}
