package server

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"strings"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Token is a secret that lets its bearer in. It holds a hash, so that it can't be
// logged by accident.
type Token struct {
	Name string // whose it is
	sum  [sha256.Size]byte
}

// OperatorToken is the name of the operator's own token. Any other name is an owner's, who sees only
// what it made.
const OperatorToken = "default"

// NewToken returns the token of a secret, which has at least 32 characters, all of
// them printable ASCII without spaces.
func NewToken(name, secret string) (Token, error) {
	if _, err := sandbox.ParseOwner(name); err != nil {
		return Token{}, err
	}
	if len(secret) < 32 || len(secret) > 512 || strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return Token{}, errors.New("a token has 32 to 512 characters, without spaces")
	}
	return Token{Name: name, sum: sha256.Sum256([]byte(secret))}, nil
}

// Owner is on whose behalf the token's bearer asks.
func (t Token) Owner() sandbox.Owner {
	if t.Name == OperatorToken {
		return sandbox.Operator
	}
	return sandbox.Owner(t.Name)
}

// bearer returns the token in an Authorization header. All tokens are compared, in
// constant time.
func bearer(tokens []Token, header []string) (token Token, ok bool) {
	if len(header) != 1 {
		return Token{}, false
	}
	scheme, secret, _ := strings.Cut(header[0], " ")
	if asciiLower(scheme) != "bearer" {
		return Token{}, false
	}
	sum := sha256.Sum256([]byte(strings.TrimSpace(secret)))
	for _, t := range tokens {
		if subtle.ConstantTimeCompare(sum[:], t.sum[:]) == 1 {
			token, ok = t, true
		}
	}
	return token, ok
}
