package docker

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/enginetest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

var testSpec = engine.Spec{
	ID:       "sbx_aaaaaaaaaaaaaaaaaaaaaaaaaa",
	Image:    "dormouse:1",
	Limits:   sandbox.DefaultLimits(),
	UID:      200_001,
	Expires:  time.Unix(1_800_000_000, 0),
	Language: sandbox.Python,
}

// TestProfileMatchesGoldenFiles compares the isolation of a sandbox with golden files, so that a review shows every
// change to the isolation.
func TestProfileMatchesGoldenFiles(t *testing.T) {
	img := imageFacts{ID: "sha256:0123", Arch: "amd64", Path: defaultPath, Volumes: []string{"/data"}}
	for name, facts := range map[string]engineFacts{
		"runc":     {Home: "home", Runtime: "runc", CgroupNS: true, CPULimit: true, PidsLimit: true, Overlay: true},
		"runsc":    {Home: "home", Runtime: "runsc", CgroupNS: true, CPULimit: true, PidsLimit: true, Overlay: true},
		"rootless": {Home: "home", Runtime: "runc", CgroupNS: true, Remapped: true},
	} {
		t.Run(name, func(t *testing.T) {
			config, host := profile(testSpec, facts, img, guestVolume{"dormouse-guest-0123456789ab-amd64",
				"/var/lib/docker/volumes/dormouse-guest-0123456789ab-amd64/_data", "/var/lib/docker/volumes/dormouse-empty/_data"})
			for i, option := range host.SecurityOpt {
				if _, is := strings.CutPrefix(option, "seccomp="); is {
					host.SecurityOpt[i] = "seccomp=(seccomp.golden.json)"
				}
			}
			enginetest.Golden(t, "profile-"+name+".golden.json", indent(t, struct {
				Config     *container.Config
				HostConfig *container.HostConfig
			}{config, host}))
		})
	}
	for name, gvisor := range map[string]bool{"seccomp": false, "seccomp-gvisor": true} {
		t.Run(name, func(t *testing.T) {
			enginetest.Golden(t, name+".golden.json", indent(t, json.RawMessage(seccompText(gvisor))))
		})
	}
}

func indent(t *testing.T, v any) []byte {
	t.Helper()
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(text, '\n')
}

func TestUIDsOfARemappedEngineAreInItsRange(t *testing.T) {
	seen := map[int]bool{}
	for uid := 200_000; uid < 260_000; uid++ {
		got := mapUID(uid, engineFacts{Remapped: true})
		if got < 1000 || got > 60_999 || seen[got] {
			t.Fatalf("mapUID(%d) = %d, want a unique uid from 1000 to 60999", uid, got)
		}
		seen[got] = true
	}
	if got := mapUID(200_000, engineFacts{}); got != 200_000 {
		t.Errorf("mapUID(200000) = %d on an engine that remaps no uids, want 200000", got)
	}
}

func TestLabelsAreIDsAndNumbers(t *testing.T) {
	config, _ := profile(testSpec, engineFacts{Home: "home"}, imageFacts{}, guestVolume{Name: "v"})
	for name, value := range config.Labels {
		if !labelValue.MatchString(value) {
			t.Errorf("label %s = %q, want an id or a number", name, value)
		}
	}
	for _, home := range []string{"", "a b", "a\nb", "a=b", strings.Repeat("x", 65), "/home/me"} {
		if err := (Config{Home: home}).validate(); err == nil {
			t.Errorf("the home %q was accepted, want an error", home)
		}
	}
}
