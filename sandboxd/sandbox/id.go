package sandbox

import (
	"crypto/rand"
	"regexp"
	"strings"
)

// ID identifies a sandbox. It consists of "sbx_" and 26 lower-case base32 characters (130 random bits).
type ID string

// ExecutionID identifies an execution. It consists of "exec_" and 26 lower-case base32 characters (130 random bits).
type ExecutionID string

const (
	idPrefix     = "sbx_"
	execIDPrefix = "exec_"
)

var idBody = regexp.MustCompile(`^[a-z2-7]{26}$`)

// NewID returns a new random id, which is unique and cannot be guessed.
func NewID() ID { return ID(idPrefix + strings.ToLower(rand.Text())) }

// NewExecutionID returns a new random id, which is unique and cannot be guessed.
func NewExecutionID() ExecutionID {
	return ExecutionID(execIDPrefix + strings.ToLower(rand.Text()))
}

// IsID reports whether s has the form of a sandbox id, as opposed to a display name.
func IsID(s string) bool {
	body, ok := strings.CutPrefix(s, idPrefix)
	return ok && idBody.MatchString(body)
}

// ParseExecutionID returns s as an execution id. Text that does not have the form of an id cannot be the id of an
// execution, so the error is the same as for an unknown id: of kind not_found.
func ParseExecutionID(s string) (ExecutionID, error) {
	body, ok := strings.CutPrefix(s, execIDPrefix)
	if !ok || !idBody.MatchString(body) {
		return "", Errorf(NotFound, "there is no execution %q", Quote(s))
	}
	return ExecutionID(s), nil
}
