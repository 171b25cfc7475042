package sandbox

import (
	"context"
	"regexp"
)

// Owner identifies the user that a request acts for, and the user that a sandbox belongs to. The zero value is
// [Operator]: the person who runs the daemon, and every client that can connect to its socket. The operator can access
// all sandboxes. Any other owner can access only the sandboxes that it created. Its requests for other sandboxes get
// the same answer as requests for sandboxes that do not exist.
type Owner string

// Operator is the owner of requests and sandboxes that belong to no named owner.
const Operator Owner = ""

var ownerName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// ParseOwner returns the owner with the name s. The operator has no name, so an empty s is an error. Errors are of kind
// invalid.
func ParseOwner(s string) (Owner, error) {
	if !ownerName.MatchString(s) {
		return "", Errorf(Invalid, "%q is not a valid name of an owner: use 1 to 63 lower-case letters, digits, dots, dashes and underscores, a letter or digit first", Quote(s))
	}
	return Owner(s), nil
}

type ownerKey struct{}

// WithOwner returns a context for a request that acts for o.
func WithOwner(ctx context.Context, o Owner) context.Context {
	return context.WithValue(ctx, ownerKey{}, o)
}

// OwnerOf returns the owner that [WithOwner] has set, or [Operator] if ctx has none.
func OwnerOf(ctx context.Context) Owner {
	o, _ := ctx.Value(ownerKey{}).(Owner)
	return o
}

// Sees reports whether o can access the sandboxes and executions that belong to owner.
func (o Owner) Sees(owner Owner) bool { return o == Operator || o == owner }
