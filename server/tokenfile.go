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

// A token file has one token on each line: a name, a space and the secret. A line with only a secret is the operator's
// token; OpenOrMakeTokenFile creates a file with one such line. Errors name a line by its number and never contain the text
// of the line, which may be a secret.

const maxTokenFile = 256 << 10

// TokenFile holds the tokens in a file. It rereads the file when it changes, so that a change applies to the next request.
// While the file can't be read, no token is valid. Its methods may be called concurrently.
type TokenFile struct {
	path   string
	shared bool // other users may have permission to read the file
	log    *slog.Logger

	mu       sync.Mutex
	info     fs.FileInfo // the state of the file when it was read; nil: the last read failed
	settled  bool        // the last read was over 2 s after the last change, so the next change sets a different modification time
	tokens   []Token
	reported string // the error of the last read; empty: none
}

// OpenTokenFile opens a token file that is managed outside Dormouse, such as a mounted secret. If other users can read it,
// OpenTokenFile only logs a warning, because all users in a container can often read its mounted secrets.
func OpenTokenFile(path string, log *slog.Logger) (*TokenFile, error) {
	f := &TokenFile{path: path, shared: true, log: log}
	if err := f.open(); err != nil {
		return nil, err
	}
	if readableByOthers(f.info) {
		log.Warn("other users of this machine can read the token file", "file", path, "mode", f.info.Mode().Perm().String())
	}
	return f, nil
}

// OpenOrMakeTokenFile opens a token file that only this user can read. If the file does not exist, it creates one with an
// operator token. Concurrent callers get the same token.
func OpenOrMakeTokenFile(path string, log *slog.Logger) (*TokenFile, error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		if err := writeTokens(path, newSecret()+"\n", true); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("create a token: %w", err)
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
		return fmt.Errorf("%s contains no token: create one with dormouse token add", f.path)
	}
	return nil
}

// Tokens returns the tokens that are valid now.
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
	if says != "" && says != f.reported {
		f.log.Error("the token file cannot be read; all requests are refused until it can be", "error", says)
	}
	f.reported = says
	return f.tokens
}

// read reads the file and sets f.info, f.settled and f.tokens. On error there are no tokens. The caller must hold f.mu,
// unless no other goroutine can use f yet.
func (f *TokenFile) read() error {
	f.info, f.settled, f.tokens = nil, false, nil
	entries, info, err := readTokens(f.path, f.shared)
	if err != nil {
		return err
	}
	// File systems have coarse clocks: if the file was changed just now, another change could leave the same modification time.
	f.info, f.settled = info, time.Since(info.ModTime()) > 2*time.Second
	for _, e := range entries {
		f.tokens = append(f.tokens, e.Token)
	}
	return nil
}

// entry is one line of a token file.
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
		return nil, nil, fmt.Errorf("%s is not a regular file of at most 256 KiB, so it is not a token file", path)
	}
	if !shared && readableByOthers(info) {
		return nil, nil, fmt.Errorf("other users may have read the tokens in %s (mode %o): remove the file; the next start creates a new one", path, info.Mode().Perm())
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

func readableByOthers(info fs.FileInfo) bool {
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
			return nil, fmt.Errorf("line %d does not consist of a name and a token", number)
		}
		if _, err := sandbox.ParseOwner(words[0]); err != nil {
			// The error does not contain words[0], which may be a token.
			return nil, fmt.Errorf("line %d: the text before the token is not a valid name", number)
		}
		t, err := NewToken(words[0], words[1])
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if slices.ContainsFunc(entries, func(e entry) bool { return e.Name == t.Name || e.sum == t.sum }) {
			return nil, fmt.Errorf("line %d repeats the name or the token of an earlier line", number)
		}
		entries = append(entries, entry{t, strings.TrimSpace(line)})
	}
	return entries, nil
}

// AddToken creates a token for a name, adds it to the file, and returns its secret. It creates the file if necessary. No
// other function returns the secret.
func AddToken(path, name string) (secret string, err error) {
	if _, err := sandbox.ParseOwner(name); err != nil {
		return "", err
	}
	secret = newSecret()
	return secret, editTokens(path, true, func(entries []entry) ([]entry, error) {
		if slices.ContainsFunc(entries, func(e entry) bool { return e.Name == name }) {
			return nil, sandbox.Errorf(sandbox.Invalid, "%s has a token already: remove it first; a new token of %s keeps the sandboxes", name, name)
		}
		if name == OperatorToken { // the operator's token goes to the first line, as in a file of OpenOrMakeTokenFile
			return slices.Insert(entries, 0, entry{line: secret}), nil
		}
		return append(entries, entry{line: name + " " + secret}), nil
	})
}

// RemoveToken revokes the token with this name. The owner's sandboxes stay.
func RemoveToken(path, name string) error {
	return editTokens(path, false, func(entries []entry) ([]entry, error) {
		left := slices.DeleteFunc(slices.Clone(entries), func(e entry) bool { return e.Name == name })
		if len(left) == len(entries) {
			return nil, sandbox.Errorf(sandbox.NotFound, "%q has no token", sandbox.Quote(name))
		}
		return left, nil
	})
}

// TokenNames returns the names in a token file, and no names if the file does not exist.
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

// editTokens replaces the entries in a token file by the result of edit, atomically. A lock file serializes concurrent
// edits. If mayCreate is true and the file does not exist, editTokens creates it. edit may be called more than once.
func editTokens(path string, mayCreate bool, edit func([]entry) ([]entry, error)) error {
	lock := flock.New(path+".lock", flock.SetPermissions(0o600))
	if err := lock.Lock(); err != nil {
		return fmt.Errorf("lock the tokens: %w", err)
	}
	defer lock.Unlock()
	for {
		entries, _, err := readTokens(path, false)
		isNew := mayCreate && errors.Is(err, fs.ErrNotExist)
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
			continue // OpenOrMakeTokenFile has just created the file, without holding the lock
		}
		return err
	}
}

// newSecret returns a secret with 256 random bits. Its prefix makes leaked secrets easy to search for.
func newSecret() string {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // rand.Read never fails
	return "dormouse_" + base64.RawURLEncoding.EncodeToString(secret)
}

// writeTokens atomically writes a token file that only this user can read. If isNew is true and the file exists,
// writeTokens does not change it and returns an error that wraps fs.ErrExist.
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
