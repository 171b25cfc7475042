package docker

import (
	"testing"

	"github.com/docker/docker/api/types/system"
)

func TestFilteredFollowsTheRuntimeArguments(t *testing.T) {
	for _, test := range []struct {
		name    string
		runtime string
		args    []string
		want    bool
	}{
		{"no arguments", "runsc", nil, false},
		{"another argument", "runsc", []string{"--platform=systrap"}, false},
		{"the argument", "runsc", []string{"--platform=systrap", "--oci-seccomp"}, true},
		{"the argument with a value", "runsc", []string{"-oci-seccomp=true"}, true},
		{"the argument, switched off", "runsc", []string{"--oci-seccomp=false"}, false},
		{"another runtime's argument", "runc", []string{"--oci-seccomp"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			sys := system.Info{Runtimes: map[string]system.RuntimeWithStatus{test.runtime: {Runtime: system.Runtime{Args: test.args}}}}
			if got := factsOf(sys, "home", "1.41", test.runtime).Filtered; got != test.want {
				t.Errorf("Filtered = %v, want %v", got, test.want)
			}
		})
	}
}
