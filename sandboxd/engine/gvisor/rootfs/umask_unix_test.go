//go:build unix

package rootfs_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestUnpackUnderAnyUmask checks that the modes of an image's files do not depend on the daemon's umask, which services and
// root shells can restrict.
func TestUnpackUnderAnyUmask(t *testing.T) {
	cmd := exec.Command("sh", "-c", `umask 077 && exec "$@"`, "sh", os.Args[0], "-test.v", "-test.run=^(TestUnpackKeepsWhatMatters|TestUnpackLayers)$")
	out, err := cmd.CombinedOutput()
	for _, test := range []string{"TestUnpackKeepsWhatMatters", "TestUnpackLayers"} {
		if err != nil || !strings.Contains(string(out), "--- PASS: "+test) {
			t.Errorf("%s with the umask 077: %v: %s", test, err, out)
		}
	}
}
