package gvisor

import (
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// validate returns an error if the configuration is incomplete or was written for another sandbox.
func (s ociSpec) validate(id sandbox.ID) error {
	if s.Root.Path == "" || len(s.Process.Args) == 0 || s.Linux.CgroupsPath != "" && path.Base(s.Linux.CgroupsPath) != string(id) {
		return fmt.Errorf("%w: the configuration belongs to another sandbox or is incomplete", folder.ErrDamaged)
	}
	return nil
}

// config returns the OCI configuration in a sandbox's own folder. A sandbox in a pooled instance runs with the
// configuration in the folder of that instance, in which the path of the cgroup differs. The error is of kind expired if
// the file is missing or damaged.
func (e *Engine) config(id sandbox.ID) (config ociSpec, err error) {
	err = folder.ReadJSON(e.layout.Config(id), &config)
	if err == nil {
		err = config.validate(id)
	}
	return config, folder.Damaged(folder.ConfigFile, err)
}

// damage returns a text that names the damaged or missing file because of which a sandbox is lost: its record or its
// configuration. The text is empty if both files are intact. A file that exists but can't be read counts as intact. A
// sandbox that is being created or removed can look damaged.
func (e *Engine) damage(id sandbox.ID) string {
	switch _, err := e.layout.Find(id); sandbox.KindOf(err) {
	case sandbox.NotFound, sandbox.Expired:
		return folder.DescribeDamage(folder.RecordFile)
	}
	if _, err := e.config(id); sandbox.KindOf(err) == sandbox.Expired {
		return folder.DescribeDamage(folder.ConfigFile)
	}
	return ""
}

// sandboxCheck returns the result of the doctor's check for damaged sandboxes in this home.
func (e *Engine) sandboxCheck() engine.Check {
	ids, err := e.layout.IDs()
	if err != nil {
		return engine.Check{Name: "sandboxes", Status: engine.Bad, Detail: "the engine's folder can't be read: " + err.Error(),
			Remedy: "check that " + e.layout.Sandboxes() + " can be read"}
	}
	var lost []string
	for _, id := range ids {
		info, err := os.Lstat(e.layout.Sandbox(id))
		if err != nil || time.Since(info.ModTime()) < time.Minute && !(folder.Exists(e.layout.Record(id)) && folder.Exists(e.layout.Config(id))) {
			continue // the sandbox is being created or removed
		}
		if why := e.damage(id); why != "" {
			lost = append(lost, fmt.Sprintf("%s: %s", id, why))
		}
	}
	if len(lost) > 0 {
		return engine.Check{Name: "sandboxes", Status: engine.Weak, Detail: strings.Join(lost, "; "),
			Remedy: "check the disk; the daemon removes these sandboxes"}
	}
	return ok("sandboxes", "%d on this machine, none damaged", len(ids))
}
