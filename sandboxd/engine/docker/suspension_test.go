package docker

import (
	"strings"
	"testing"

	"github.com/docker/docker/api/types/system"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
)

func TestSuspensionOfEngines(t *testing.T) {
	both := map[string]system.RuntimeWithStatus{"runc": {}, "runsc": {}}
	for _, tt := range []struct {
		name       string
		sys        system.Info
		runtime    string
		versions   map[string]string
		copiesStay string // the reason why copies of memory can't be removed
		want       engine.Suspension
		remedy     string // a part of the expected remedy
	}{
		{"gVisor on an experimental engine", system.Info{Runtimes: both, ExperimentalBuild: true}, "runsc", nil, "", engine.ToDisk, ""},
		{"gVisor on an experimental engine on another machine", system.Info{Runtimes: both, ExperimentalBuild: true}, "runsc", nil,
			"the engine is on another machine", engine.Paused, "as root on the engine's machine"},
		{"gVisor on an engine without experimental features", system.Info{Runtimes: both}, "runsc", nil, "", engine.Paused, `"experimental": true`},
		{"runc on an engine that also has gVisor", system.Info{Runtimes: both, ExperimentalBuild: true}, "runc", nil, "", engine.Paused, "use --runtime runsc"},
		{"an engine with runc only", system.Info{}, "runc", nil, "", engine.Paused, "install gVisor's runsc"},
		{"Podman, which reports an experimental build", system.Info{Runtimes: both, ExperimentalBuild: true}, "runsc",
			map[string]string{"Podman Engine": "5.0.0"}, "", engine.Paused, "--engine gvisor"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			facts := engineFacts{Runtime: tt.runtime, CopiesStay: tt.copiesStay}
			if got := suspensionOf(tt.sys, tt.versions, facts); got != tt.want {
				t.Errorf("suspensionOf() = %q, want %q", got, tt.want)
			}
			check := suspendCheck(tt.sys, tt.versions, facts)
			if (check.Status == engine.OK) != (tt.want == engine.ToDisk) || !strings.Contains(check.Remedy, tt.remedy) {
				t.Errorf("the doctor reports %+v, want the remedy %q", check, tt.remedy)
			}
		})
	}
}
