package sandbox

import (
	"crypto/rand"
	"regexp"
	"strings"
)

// ID names a sandbox: "sbx_" and 26 lower-case base32 characters (130 random bits).
type ID string

// ExecutionID names an execution: "exec_" and 26 lower-case base32 characters.
type ExecutionID string

const (
	idPrefix     = "sbx_"
	execIDPrefix = "exec_"
)

var idBody = regexp.MustCompile(`^[a-z2-7]{26}$`)

// NewID returns an id that nobody has and nobody can guess.
func NewID() ID { return ID(idPrefix + strings.ToLower(rand.Text())) }

// NewExecutionID returns an id that nobody has and nobody can guess.
func NewExecutionID() ExecutionID {
	return ExecutionID(execIDPrefix + strings.ToLower(rand.Text()))
}

// IsID reports whether s has the form of a sandbox id, as opposed to a display name.
func IsID(s string) bool {
	body, ok := strings.CutPrefix(s, idPrefix)
	return ok && idBody.MatchString(body)
}

// ParseID accepts a sandbox id.
func ParseID(s string) (ID, error) {
	if !IsID(s) {
		return "", Errorf(NotFound, "there is no sandbox %q", Quote(s))
	}
	return ID(s), nil
}

// ParseExecutionID accepts an execution id. What does not look like one cannot
// exist, so the answer is the same as for an unknown one.
func ParseExecutionID(s string) (ExecutionID, error) {
	body, ok := strings.CutPrefix(s, execIDPrefix)
	if !ok || !idBody.MatchString(body) {
		return "", Errorf(NotFound, "there is no execution %q", Quote(s))
	}
	return ExecutionID(s), nil
}
