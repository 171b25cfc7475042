package folder

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/dormouse-sandbox/dormouse/sandboxd/durable"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Instance is a container of runsc. A sandbox runs in an instance of its own, or in the instance of a pooled sandbox.
type Instance struct {
	Name   string // the name of the container and of its cgroup
	Bundle string // the folder that was passed to runsc as the OCI bundle
}

// Own returns the instance that a sandbox runs in if it does not run in a pooled instance.
func (l Layout) Own(id sandbox.ID) Instance { return Instance{string(id), l.Sandbox(id)} }

// PooledInstance returns the instance of the pooled sandbox with this name.
func (l Layout) PooledInstance(name string) Instance {
	return Instance{name, filepath.Join(l.Pool(), name)}
}

// PIDFile returns the path of the file to which runsc writes the pid of the instance's process.
func (in Instance) PIDFile() string { return filepath.Join(in.Bundle, "pid") }

// InstanceOf returns the instance of a sandbox: the pooled instance that is named in the sandbox's file "spare", or the
// sandbox's own instance if the file is missing, damaged or belongs to another sandbox.
func (l Layout) InstanceOf(id sandbox.ID) Instance {
	if text, err := os.ReadFile(l.Pooled(id)); err == nil {
		if name, ok := ParsePooled(text, id); ok {
			return l.PooledInstance(name)
		}
	}
	return l.Own(id)
}

// PooledPrefix is the prefix of the names of pooled instances. 26 letters and digits of base 32 follow it.
const PooledPrefix = "spare-"

var pooledName = regexp.MustCompile(`^` + PooledPrefix + `[a-z2-7]{26}$`)

// IsInstance reports whether name can be the name of an instance. No other name may become a part of a path, or be used
// to remove anything.
func IsInstance(name string) bool { return sandbox.IsID(name) || pooledName.MatchString(name) }

// WritePooled records that a sandbox runs in the pooled instance with this name. The file contains the sandbox's id too,
// so that it is invalid in the folder of another sandbox.
func (l Layout) WritePooled(id sandbox.ID, name string) error {
	return durable.Replace(l.Pooled(id), []byte(name+" "+string(id)+"\n"), 0o600)
}

// ParsePooled parses the content of a sandbox's file "spare": the result of [Layout.WritePooled] or, if an older version
// wrote the file, the name alone.
func ParsePooled(text []byte, id sandbox.ID) (name string, ok bool) {
	name, owner, named := strings.Cut(strings.TrimSuffix(string(text), "\n"), " ")
	return name, pooledName.MatchString(name) && (!named || owner == string(id))
}
