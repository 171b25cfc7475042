package sandbox

import (
	"context"
	"regexp"
)

// Owner is on whose behalf something is asked, and whose a sandbox is. The zero value is the
// operator: whoever runs the daemon, and everybody who reaches its socket. The operator sees all; any other
// owner sees what it made, and to it the rest is not there.
type Owner string

// Operator is the owner of what nobody else owns.
const Operator Owner = ""

var ownerName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// ParseOwner accepts the name of an owner who is not the operator.
func ParseOwner(s string) (Owner, error) {
	if !ownerName.MatchString(s) {
		return "", Errorf(Invalid, "%q is no name for an owner: use 1 to 63 lower-case letters, digits, dots, dashes and underscores, a letter or digit first", Quote(s))
	}
	return Owner(s), nil
}

type ownerKey struct{}

// WithOwner returns a context of what is asked on behalf of o.
func WithOwner(ctx context.Context, o Owner) context.Context {
	return context.WithValue(ctx, ownerKey{}, o)
}

// OwnerOf says on whose behalf something is asked; [Operator] if nobody has said.
func OwnerOf(ctx context.Context) Owner {
	o, _ := ctx.Value(ownerKey{}).(Owner)
	return o
}

// Sees reports whether what owner has exists for o.
func (o Owner) Sees(owner Owner) bool { return o == Operator || o == owner }
