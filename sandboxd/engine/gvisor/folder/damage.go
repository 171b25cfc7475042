package folder

import (
	"errors"
	"io/fs"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// ErrDamaged is wrapped by the errors for files whose content is not what the engine wrote.
var ErrDamaged = errors.New("its content is not what was written")

// Damaged returns an error of kind expired if err means that a file of a sandbox is missing or damaged. The sandbox is
// then lost. The parameter file is the name of that file. Damaged returns any other error unchanged, for example the
// error of a failing disk, because the file may be intact.
func Damaged(file string, err error) error {
	if errors.Is(err, ErrDamaged) || errors.Is(err, fs.ErrNotExist) {
		return Lost("%s", DescribeDamage(file)).WithCause(err)
	}
	return err
}

// DescribeDamage returns a text for people that names a damaged or missing file of a sandbox.
func DescribeDamage(file string) string {
	return "its file " + file + " is damaged or missing, as after a power cut"
}

// Lost returns the error, of kind expired, for a sandbox that can never be resumed.
func Lost(format string, args ...any) *sandbox.Error {
	return sandbox.Errorf(sandbox.Expired, "it can't be resumed, because "+format, args...)
}
