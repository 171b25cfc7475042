package server

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"

	"github.com/dormouse-sandbox/dormouse/sandboxd/durable"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// A token file has a token on each line: a name, a space and the token. A line without a name
// is the operator's token, which is how the file begins. What is wrong with a file is said by its line's
// number: no error has a token in it.

const maxTokenFile = 256 << 10

// TokenFile is the tokens of a file as they are now: a change counts from the next request on. While the file
// can't be read, there are none. Its methods may be called concurrently.
type TokenFile struct {
	path   string
	shared bool // others may be allowed to read it
	log    *slog.Logger

	mu      sync.Mutex
	info    fs.FileInfo // of what was read; nil: nothing was
	settled bool        // a later change is sure to show in the info
	tokens  []Token
	said    string // the last error that was logged
}

// OpenTokenFile reads a file that somebody else looks after, such as a mounted secret, which often
// is open to all in its container: only a warning is logged.
func OpenTokenFile(path string, log *slog.Logger) (*TokenFile, error) {
	f := &TokenFile{path: path, shared: true, log: log}
	if err := f.open(); err != nil {
		return nil, err
	}
	if othersRead(f.info) {
		log.Warn("others on this machine can read the tokens", "file", path, "mode", f.info.Mode().Perm().String())
	}
	return f, nil
}

// OpenOrMakeTokenFile reads a file of this user alone, and makes one with an operator's token if
// there is none. Two callers at once get the same token.
func OpenOrMakeTokenFile(path string, log *slog.Logger) (*TokenFile, error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		if err := writeTokens(path, newSecret()+"\n", true); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make a token: %w", err)
		}
	}
	f := &TokenFile{path: path, log: log}
	return f, f.open()
}

func (f *TokenFile) open() error {
	if err := f.read(); err != nil {
		return err
	}
	if len(f.tokens) == 0 {
		return fmt.Errorf("%s has no token: make one with dormouse token add", f.path)
	}
	return nil
}

// Tokens returns the tokens that let in now.
func (f *TokenFile) Tokens() []Token {
	info, err := os.Stat(f.path)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil && f.settled && os.SameFile(info, f.info) && info.Mode() == f.info.Mode() && info.Size() == f.info.Size() && info.ModTime().Equal(f.info.ModTime()) {
		return f.tokens
	}
	says := ""
	if err := f.read(); err != nil {
		says = err.Error()
	}
	if says != "" && says != f.said {
		f.log.Error("the tokens cannot be read, and nobody is let in", "error", says)
	}
	f.said = says
	return f.tokens
}

// read reads the file anew.
func (f *TokenFile) read() error {
	f.info, f.settled, f.tokens = nil, false, nil
	entries, info, err := readTokens(f.path, f.shared)
	if err != nil {
		return err
	}
	f.info, f.settled = info, time.Since(info.ModTime()) > 2*time.Second // file systems have coarse clocks
	for _, e := range entries {
		f.tokens = append(f.tokens, e.Token)
	}
	return nil
}

// entry is a line of a token file.
type entry struct {
	Token
	line string
}

func readTokens(path string, shared bool) ([]entry, fs.FileInfo, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read the tokens: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, nil, fmt.Errorf("read the tokens: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxTokenFile {
		return nil, nil, fmt.Errorf("%s is not a file with tokens", path)
	}
	if !shared && othersRead(info) {
		return nil, nil, fmt.Errorf("others may have read the tokens in %s (mode %o): remove the file, and a new one is made at the next start", path, info.Mode().Perm())
	}
	text, err := io.ReadAll(io.LimitReader(file, maxTokenFile))
	if err != nil {
		return nil, nil, fmt.Errorf("read the tokens: %w", err)
	}
	entries, err := parseTokens(string(text))
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return entries, info, nil
}

func othersRead(info fs.FileInfo) bool {
	return info.Mode().Perm()&0o077 != 0 && runtime.GOOS != "windows"
}

func parseTokens(text string) ([]entry, error) {
	var entries []entry
	number := 0
	for line := range strings.Lines(text) {
		number++
		words := strings.Fields(line)
		switch len(words) {
		case 0:
			continue
		case 1:
			words = []string{OperatorToken, words[0]}
		case 2:
		default:
			return nil, fmt.Errorf("line %d is not a name and a token", number)
		}
		if _, err := sandbox.ParseOwner(words[0]); err != nil {
			return nil, fmt.Errorf("line %d: what is in front of the token is no name", number) // it may be a token
		}
		t, err := NewToken(words[0], words[1])
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if slices.ContainsFunc(entries, func(e entry) bool { return e.Name == t.Name || e.sum == t.sum }) {
			return nil, fmt.Errorf("line %d has the name or the token of a line before it", number)
		}
		entries = append(entries, entry{t, strings.TrimSpace(line)})
	}
	return entries, nil
}

// AddToken makes a token for a name, puts it into a file, which it makes if there is none, and returns it: nothing
// else ever shows it.
func AddToken(path, name string) (secret string, err error) {
	if _, err := sandbox.ParseOwner(name); err != nil {
		return "", err
	}
	secret = newSecret()
	return secret, editTokens(path, true, func(entries []entry) ([]entry, error) {
		if slices.ContainsFunc(entries, func(e entry) bool { return e.Name == name }) {
			return nil, sandbox.Errorf(sandbox.Invalid, "there is a token of %s: remove it first, and %s gets another with the same sandboxes", name, name)
		}
		if name == OperatorToken { // the first line, as if it had been made at the first start
			return slices.Insert(entries, 0, entry{line: secret}), nil
		}
		return append(entries, entry{line: name + " " + secret}), nil
	})
}

// RemoveToken revokes the token of a name. Its sandboxes stay.
func RemoveToken(path, name string) error {
	return editTokens(path, false, func(entries []entry) ([]entry, error) {
		left := slices.DeleteFunc(slices.Clone(entries), func(e entry) bool { return e.Name == name })
		if len(left) == len(entries) {
			return nil, sandbox.Errorf(sandbox.NotFound, "there is no token of %q", sandbox.Quote(name))
		}
		return left, nil
	})
}

// TokenNames returns the names in a token file.
func TokenNames(path string) ([]string, error) {
	entries, _, err := readTokens(path, false)
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return names, err
}

// editTokens changes a file that is whole at each moment. Of two editors at once, one waits.
func editTokens(path string, mayMake bool, edit func([]entry) ([]entry, error)) error {
	lock := flock.New(path+".lock", flock.SetPermissions(0o600))
	if err := lock.Lock(); err != nil {
		return fmt.Errorf("lock the tokens: %w", err)
	}
	defer lock.Unlock()
	for {
		entries, _, err := readTokens(path, false)
		isNew := mayMake && errors.Is(err, fs.ErrNotExist)
		if err != nil && !isNew {
			return err
		}
		if entries, err = edit(entries); err != nil {
			return err
		}
		var text strings.Builder
		for _, e := range entries {
			text.WriteString(e.line + "\n")
		}
		err = writeTokens(path, text.String(), isNew)
		if isNew && errors.Is(err, fs.ErrExist) {
			continue // a server has just made it
		}
		return err
	}
}

// newSecret returns 256 random bits. The prefix is for those who search for leaked secrets.
func newSecret() string {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails
	return "dormouse_" + base64.RawURLEncoding.EncodeToString(secret)
}

// writeTokens writes a file of this user alone that is whole when it appears. A new one is in nobody's place.
func writeTokens(path, text string, isNew bool) error {
	write := durable.WriteFile
	if isNew {
		write = durable.Create
	}
	if err := write(path, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write the tokens: %w", err)
	}
	return nil
}
