package server

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// Token is a secret that lets its bearer in. It holds a hash, so that it can't be
// logged by accident.
type Token struct {
	Name string // whose it is
	sum  [sha256.Size]byte
}

// NewToken returns the token of a secret, which has at least 32 characters, all of
// them printable ASCII without spaces.
func NewToken(name, secret string) (Token, error) {
	if len(secret) < 32 || len(secret) > 512 || strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return Token{}, errors.New("a token has 32 to 512 characters, without spaces")
	}
	return Token{Name: name, sum: sha256.Sum256([]byte(secret))}, nil
}

// LoadToken reads a token from a file.
func LoadToken(name, path string) (Token, error) {
	f, err := os.Open(path)
	if err != nil {
		return Token{}, fmt.Errorf("read the token: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Token{}, fmt.Errorf("read the token: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > 1024 {
		return Token{}, fmt.Errorf("%s is not a file with a token", path)
	}
	text, err := io.ReadAll(io.LimitReader(f, 1024))
	if err != nil {
		return Token{}, fmt.Errorf("read the token: %w", err)
	}
	t, err := NewToken(name, strings.TrimSpace(string(text)))
	if err != nil {
		return Token{}, fmt.Errorf("%s: %w; remove the file, and a new one is made", path, err)
	}
	return t, nil
}

// LoadOrMakeToken reads a token from a file of this user alone, and makes both if there is
// no file. Two callers at once get the same token.
func LoadOrMakeToken(name, path string) (Token, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeToken(path); err != nil {
			return Token{}, fmt.Errorf("make a token: %w", err)
		}
	} else if err != nil {
		return Token{}, fmt.Errorf("read the token: %w", err)
	} else if info.Mode().Perm()&0o077 != 0 && runtime.GOOS != "windows" {
		return Token{}, fmt.Errorf("others may have read the token in %s (mode %o): remove the file, and a new one is made", path, info.Mode().Perm())
	}
	return LoadToken(name, path)
}

// makeToken writes 256 random bits to a file that is whole when it appears.
func makeToken(path string) error {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)                                              // never fails
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	// The prefix is for those who search for leaked secrets.
	_, err = f.WriteString("dormouse_" + base64.RawURLEncoding.EncodeToString(secret) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	// A link fails where somebody was faster; some file systems have none.
	if err := os.Link(f.Name(), path); err == nil || errors.Is(err, fs.ErrExist) {
		return nil
	}
	return os.Rename(f.Name(), path)
}

// bearer returns the name of the token in an Authorization header. All tokens are
// compared, in constant time.
func bearer(tokens []Token, header []string) (name string, ok bool) {
	if len(header) != 1 {
		return "", false
	}
	scheme, secret, _ := strings.Cut(header[0], " ")
	if asciiLower(scheme) != "bearer" {
		return "", false
	}
	sum := sha256.Sum256([]byte(strings.TrimSpace(secret)))
	for _, t := range tokens {
		if subtle.ConstantTimeCompare(sum[:], t.sum[:]) == 1 {
			name, ok = t.Name, true
		}
	}
	return name, ok
}
