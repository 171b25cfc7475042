//go:build linux

package runsc

import (
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestForbiddenNamespaceErrorNamesTheSetting checks that the error for a forbidden user namespace names the setting
// that forbids it, and says how to change the setting.
func TestForbiddenNamespaceErrorNamesTheSetting(t *testing.T) {
	for name, test := range map[string]struct {
		settings map[string]string
		want     string
	}{
		"there may be none":          {map[string]string{"user/max_user_namespaces": "0"}, "sysctl -w user.max_user_namespaces="},
		"only root may have them":    {map[string]string{"user/max_user_namespaces": "9", "kernel/unprivileged_userns_clone": "0"}, "sysctl -w kernel.unprivileged_userns_clone=1"},
		"AppArmor does not know us":  {map[string]string{"kernel/unprivileged_userns_clone": "1", "kernel/apparmor_restrict_unprivileged_userns": "1"}, "{ userns, }' | sudo tee /etc/apparmor.d/dormouse"},
		"nothing says why":           {map[string]string{"user/max_user_namespaces": "9"}, "operation not permitted"},
		"there are no such settings": {nil, "operation not permitted"},
	} {
		t.Run(name, func(t *testing.T) {
			sys := fstest.MapFS{}
			for file, value := range test.settings {
				sys[file] = &fstest.MapFile{Data: []byte(value + "\n")}
			}
			err := whyNoNamespace(sys, "/bin/runsc", syscall.EPERM)
			if sandbox.KindOf(err) != sandbox.Unavailable || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "as root, or use a Docker engine") {
				t.Errorf("it says %q, want %q in it", err, test.want)
			}
		})
	}
}
