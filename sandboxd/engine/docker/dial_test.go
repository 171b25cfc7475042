package docker

import (
	"testing"

	"github.com/docker/docker/api/types/system"
)

// TestDirectExec checks that the runtime is called directly only for an engine on this machine that has no authorization
// plugin, and only if the operator allows direct calls.
func TestDirectExec(t *testing.T) {
	plugins := system.Info{}
	plugins.Plugins.Authorization = []string{"opa"}
	for _, tt := range []struct {
		name         string
		local        bool
		sys          system.Info
		noDirectExec bool
		want         bool
	}{
		{"an engine on this machine", true, system.Info{}, false, true},
		{"an engine on another machine", false, system.Info{}, false, false},
		{"an engine with an authorization plugin", true, plugins, false, false},
		{"the operator has switched it off", true, system.Info{}, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := directExec(tt.local, tt.noDirectExec, tt.sys); got != tt.want {
				t.Errorf("directExec() = %v, want %v", got, tt.want)
			}
		})
	}
}
