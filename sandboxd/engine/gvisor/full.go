package gvisor

import (
	"errors"
	"strings"
	"syscall"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// errFull is in the chain of an error whose message says that a disk is full.
var errFull = errors.New("the disk is full")

// fullDisk says which disk is full if that is why err happened, for a person or a model; it is empty if not.
func fullDisk(err error, images string) string {
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) && !saysFull(err) {
		return ""
	}
	if images != "" && strings.Contains(err.Error(), images+"/") {
		return "the disk that holds the image cache is full; free some space on it and try again"
	}
	return "the disk that holds the daemon's home is full; free some space on it, by deleting sandboxes for example, and try again"
}

// saysFull reports whether a program's words, which are all that is known of its failure, say that a disk is full.
func saysFull(err error) bool {
	return err != nil && (strings.Contains(err.Error(), syscall.ENOSPC.Error()) || strings.Contains(err.Error(), syscall.EDQUOT.Error()))
}

// blameDisk returns err, or an error that says which disk is full if that is why err happened. It is the last step of every
// operation that writes, because what fails first may be anything.
func (i images) blameDisk(err error) error {
	if err == nil || errors.Is(err, errFull) || errors.Is(err, errNoNamespace) {
		return err
	}
	if where := fullDisk(err, i.dir); where != "" {
		return sandbox.Errorf(sandbox.Unavailable, "%s", where).WithCause(errors.Join(errFull, err))
	}
	return err
}

// failedOnDisk is the error of a step that reads or writes a checkpoint: what failed, and that the disk is full or that gVisor failed.
func failedOnDisk(what string, cause error) *sandbox.Error {
	if where := fullDisk(cause, ""); where != "" {
		return sandbox.Errorf(sandbox.Unavailable, "%s: %s", what, where).WithCause(errors.Join(errFull, cause))
	}
	return sandbox.Errorf(sandbox.Unavailable, "%s; the daemon's log has the details", what).WithCause(cause)
}
