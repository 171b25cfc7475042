package gvisor

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/enginetest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/cgroup"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/runsc"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestProfileMatchesGoldenFiles checks the profile against a golden file, which contains everything that isolates a sandbox:
// its OCI configuration and the flags of runsc. A change to the isolation is a change to that file, which a reviewer
// sees.
func TestProfileMatchesGoldenFiles(t *testing.T) {
	spec := engine.Spec{
		ID:       "sbx_aaaaaaaaaaaaaaaaaaaaaaaaaa",
		Image:    "dormouse:1",
		Limits:   sandbox.DefaultLimits(),
		UID:      200_001,
		Expires:  time.Unix(1_800_000_000, 0),
		Language: sandbox.Python,
	}
	where := folder.Layout{Dir: "/home/gvisor"}
	c := cgroup.Trees{Version: 2, Swap: true}
	text, err := json.MarshalIndent(struct {
		Flags  []string `json:"flags"`
		Config ociSpec  `json:"config"`
	}{
		runsc.Flags(where, false),
		profile(spec, facts{Root: "/images/0123/rootfs", Path: "/usr/local/bin:/usr/bin:/bin", Guest: where.Guest("0123456789ab-amd64"),
			Etc: where.Etc(), Cgroup: c.Path(string(spec.ID)), Swap: c.Swap}),
	}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	enginetest.Golden(t, "profile.golden.json", append(text, '\n'))
}

// TestIsRunscOf checks that isRunscOf reports true only for the runsc processes of a sandbox. The engine kills these
// processes, and must not kill others.
func TestIsRunscOf(t *testing.T) {
	const sandboxDir = "/home/gvisor/sandboxes/sbx_a"
	for _, test := range []struct {
		name, cmdline string
		want          bool
	}{
		{"the sandbox", "runsc-sandbox\x00boot\x00--bundle=" + sandboxDir, true},
		{"the gofer", "runsc-gofer\x00gofer\x00--bundle\x00" + sandboxDir + "\x00--spec-fd=4", true},
		{"who starts it", "/home/gvisor/bin/runsc-0123\x00run\x00--bundle=" + sandboxDir + "\x00sbx_a", true},
		{"another sandbox's", "runsc-sandbox\x00boot\x00--bundle=" + sandboxDir + "b", false},
		{"an editor", "vi\x00" + sandboxDir, false},
		{"an editor with the same word", "vi\x00--bundle\x00" + sandboxDir, false},
		{"nothing", "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := isRunscOf(test.cmdline, sandboxDir); got != test.want {
				t.Errorf("isRunscOf(%q) = %v, want %v", test.cmdline, got, test.want)
			}
		})
	}
}
