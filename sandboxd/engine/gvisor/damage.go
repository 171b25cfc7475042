package gvisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// damaged returns an error of kind expired if err means that a file of a sandbox is missing or damaged. The sandbox is
// then lost. The parameter file is the name of that file. damaged returns any other error unchanged, because the file
// may be intact, for example if the disk fails.
func damaged(file string, err error) error {
	if errors.Is(err, errDamaged) || errors.Is(err, fs.ErrNotExist) {
		return lost("%s", damageOf(file)).WithCause(err)
	}
	return err
}

func damageOf(file string) string {
	return "its file " + file + " is damaged or missing, as after a power cut"
}

var (
	buildName = regexp.MustCompile(`^[0-9a-f]{12}$`)
	guestName = regexp.MustCompile(`^[0-9a-z]+-[0-9a-z]+$`)
)

// validate returns an error if no engine can have written the record. It must be called before a field of the record
// becomes part of a path.
func (r record) validate() error {
	if r.Schema < recordSchema || !buildName.MatchString(r.Build) || !guestName.MatchString(r.Guest) || !isDigest(r.Image) {
		return fmt.Errorf("%w: the record of a sandbox has a field that is not valid", errDamaged)
	}
	return nil
}

// validate returns an error if no engine can have written the configuration for this sandbox.
func (s ociSpec) validate(id sandbox.ID) error {
	if s.Root.Path == "" || len(s.Process.Args) == 0 || s.Linux.CgroupsPath != "" && path.Base(s.Linux.CgroupsPath) != string(id) {
		return fmt.Errorf("%w: the configuration of a sandbox is another's or not complete", errDamaged)
	}
	return nil
}

// damage returns a text that names a damaged or missing file of a sandbox. Without this file, the sandbox is lost. The
// text is empty if the files are intact or can't be read. A sandbox that is being created or removed can look damaged.
func (l layout) damage(id sandbox.ID) string {
	switch _, err := l.find(id); sandbox.KindOf(err) {
	case sandbox.NotFound, sandbox.Expired:
		return damageOf("record.json")
	}
	if _, err := l.config(id); sandbox.KindOf(err) == sandbox.Expired {
		return damageOf("config.json")
	}
	return ""
}

// sandboxCheck returns the result of the doctor's check for damaged sandboxes in this home.
func (e *Engine) sandboxCheck() engine.Check {
	ids, err := e.layout.ids()
	if err != nil {
		return engine.Check{Name: "sandboxes", Status: engine.Bad, Detail: "the engine's folder can't be read: " + err.Error(),
			Remedy: "see that " + e.layout.sandboxes() + " is readable"}
	}
	var lost []string
	for _, id := range ids {
		info, err := os.Lstat(e.layout.sandboxDir(id))
		if err != nil || time.Since(info.ModTime()) < time.Minute && !(exists(e.layout.record(id)) && exists(e.layout.configFile(id))) {
			continue // the sandbox is being created or removed
		}
		if why := e.layout.damage(id); why != "" {
			lost = append(lost, fmt.Sprintf("%s: %s", id, why))
		}
	}
	if len(lost) > 0 {
		return engine.Check{Name: "sandboxes", Status: engine.Weak, Detail: strings.Join(lost, "; "),
			Remedy: "the daemon removes them; see whether the disk is healthy"}
	}
	return ok("sandboxes", "%d on this machine, none damaged", len(ids))
}
