package folder

import (
	"errors"
	"strings"
	"syscall"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// ErrFull is wrapped by errors whose message names a full disk.
var ErrFull = errors.New("the disk is full")

// ErrNoNamespace is wrapped by the errors for a user namespace that could not be created. If the limit of user namespaces
// is reached, Linux returns ENOSPC, which must not be reported as a full disk.
var ErrNoNamespace = errors.New("no user namespace")

// fullDisk returns a sentence, for a person or a model, that names the full disk, if a full disk caused err. Otherwise it
// returns an empty string. images is the folder of the image cache, or empty.
func fullDisk(err error, images string) string {
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) && !mentionsFullDisk(err) {
		return ""
	}
	if images != "" && strings.Contains(err.Error(), images+"/") {
		return "the disk that holds the image cache is full; free some space on it and try again"
	}
	return "the disk that holds the daemon's home is full; free some space on it, by deleting sandboxes for example, and try again"
}

// mentionsFullDisk reports whether the text of an error contains the message for a full disk. It reads the text because
// the error of a failed program contains only the program's output, and does not wrap ENOSPC.
func mentionsFullDisk(err error) bool {
	return err != nil && (strings.Contains(err.Error(), syscall.ENOSPC.Error()) || strings.Contains(err.Error(), syscall.EDQUOT.Error()))
}

// ExplainFullDisk returns err, or, if a full disk caused err, an error that names the disk. The parameter images is the
// folder of the image cache. Every operation that writes files passes its error through ExplainFullDisk before it
// returns, because any of its steps can fail on a full disk.
func ExplainFullDisk(err error, images string) error {
	if err == nil || errors.Is(err, ErrFull) || errors.Is(err, ErrNoNamespace) {
		return err
	}
	if where := fullDisk(err, images); where != "" {
		return sandbox.Errorf(sandbox.Unavailable, "%s", where).WithCause(errors.Join(ErrFull, err))
	}
	return err
}

// FailedOnDisk returns the error for a failed step that reads or writes a checkpoint. The parameter what describes the
// failed step, and is the first part of the message. The second part names the full disk or refers to the daemon's log.
func FailedOnDisk(what string, cause error) *sandbox.Error {
	if where := fullDisk(cause, ""); where != "" {
		return sandbox.Errorf(sandbox.Unavailable, "%s: %s", what, where).WithCause(errors.Join(ErrFull, cause))
	}
	return sandbox.Errorf(sandbox.Unavailable, "%s; the daemon's log has the details", what).WithCause(cause)
}
