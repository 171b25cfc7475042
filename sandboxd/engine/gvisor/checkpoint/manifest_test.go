package checkpoint

import (
	"slices"
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestManifestFits checks that a checkpoint is restored only with the same build, image, guest and configuration, on a
// CPU with at least the same features. It also checks that the error is of kind unavailable, and not expired, if
// another machine or version can restore the checkpoint.
func TestManifestFits(t *testing.T) {
	made := Manifest{Schema: 1, Build: "b", Image: "i", Guest: "g", Config: "c", CPU: []string{"avx2", "sse"}}
	for _, test := range []struct {
		name   string
		change func(*Manifest)
		says   string // the expected text in the error, or empty if the checkpoint fits
		kind   sandbox.Kind
	}{
		{"the same", func(*Manifest) {}, "", ""},
		{"a CPU with more", func(m *Manifest) { m.CPU = []string{"avx2", "avx512f", "sse"} }, "", ""},
		{"a CPU with less", func(m *Manifest) { m.CPU = []string{"sse"} }, "avx2", sandbox.Unavailable},
		{"another gVisor", func(m *Manifest) { m.Build = "x" }, "gVisor build", sandbox.Expired},
		{"another image", func(m *Manifest) { m.Image = "x" }, "another sandbox", sandbox.Expired},
		{"another sandbox", func(m *Manifest) { m.Config = "x" }, "another sandbox", sandbox.Expired},
		{"another schema", func(m *Manifest) { m.Schema = 2 }, "another version", sandbox.Unavailable},
	} {
		t.Run(test.name, func(t *testing.T) {
			now := made
			now.CPU = slices.Clone(made.CPU)
			test.change(&now)
			err := made.Fits(now)
			if test.says == "" && err == nil {
				return
			}
			if err == nil || sandbox.KindOf(err) != test.kind || !strings.Contains(err.Error(), test.says) {
				t.Errorf("Fits = %v (%s), want %q (%s)", err, sandbox.KindOf(err), test.says, test.kind)
			}
		})
	}
}
