package folder

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/durable"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Record lists the files that a sandbox was created with, and that it needs until it is removed.
type Record struct {
	Build  string `json:"runsc"` // the build of runsc
	Guest  string `json:"guest"`
	Image  string `json:"image"` // the digest of the image
	Schema int    `json:"schema"`
}

// RecordSchema is the schema of the records that this version writes.
const RecordSchema = 1

// Find returns a sandbox's record. The error is of kind not_found if the record does not exist, and of kind expired if it
// is damaged.
func (l Layout) Find(id sandbox.ID) (Record, error) {
	var r Record
	if !sandbox.IsID(string(id)) {
		return r, engine.ErrNotFound(id)
	}
	err := ReadJSON(l.Record(id), &r)
	if errors.Is(err, fs.ErrNotExist) {
		return r, engine.ErrNotFound(id)
	}
	if err == nil {
		err = r.validate()
	}
	return r, Damaged(RecordFile, err)
}

var (
	buildName = regexp.MustCompile(`^[0-9a-f]{12}$`)
	guestName = regexp.MustCompile(`^[0-9a-z]+-[0-9a-z]+$`)
)

// validate returns an error if a field of the record is missing or is not valid. It must be called before a field of the
// record becomes part of a path.
func (r Record) validate() error {
	if r.Schema < RecordSchema || !buildName.MatchString(r.Build) || !guestName.MatchString(r.Guest) || !IsDigest(r.Image) {
		return fmt.Errorf("%w: the record of a sandbox has a field that is not valid", ErrDamaged)
	}
	return nil
}

// IsDigest reports whether a name is the digest of an image: a sha256 in hexadecimal digits.
func IsDigest(name string) bool {
	text, err := hex.DecodeString(name)
	return err == nil && len(text) == 32
}

// ReadJSON reads a file into the value that v points to. The error wraps [ErrDamaged] if the file is not valid JSON.
func ReadJSON(path string, v any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("read %s: %w: %w", path, ErrDamaged, err)
	}
	return nil
}

// WriteJSON writes a file of a sandbox's folder atomically. It does not sync the file.
func WriteJSON(path string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return durable.Replace(path, append(text, '\n'), 0o600)
}

// Hash returns the sha256 of a text in hexadecimal digits.
func Hash(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}
