package server

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"strings"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Token is an access token. It contains a hash of the secret and not the secret, so that the secret can't be logged by
// accident.
type Token struct {
	Name string // the name of the owner, or OperatorToken
	sum  [sha256.Size]byte
}

// OperatorToken is the name of the operator's token. Every other name is the name of an owner. An owner sees only the
// sandboxes that it created; the operator sees all sandboxes.
const OperatorToken = "default"

// NewToken returns the token for a secret. It returns an error if name is not a valid owner name, or if the secret does not
// consist of 32 to 512 printable ASCII characters without spaces.
func NewToken(name, secret string) (Token, error) {
	if _, err := sandbox.ParseOwner(name); err != nil {
		return Token{}, err
	}
	if len(secret) < 32 || len(secret) > 512 || strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return Token{}, errors.New("a token has 32 to 512 characters, without spaces")
	}
	return Token{Name: name, sum: sha256.Sum256([]byte(secret))}, nil
}

// Owner returns the owner on whose behalf requests with this token are made.
func (t Token) Owner() sandbox.Owner {
	if t.Name == OperatorToken {
		return sandbox.Operator
	}
	return sandbox.Owner(t.Name)
}

// bearer returns the token in an Authorization header, and reports whether it is one of tokens. It compares the header with
// all tokens, each in constant time, so that its duration reveals nothing about the tokens.
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
