//go:build unix

package e2e_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestHelp compares the help texts with a golden file. Users and scripts depend on the help texts, so each change to them
// must be visible in a review. DORMOUSE_UPDATE_GOLDEN=1 rewrites the golden file.
func TestHelp(t *testing.T) {
	var got strings.Builder
	for _, command := range []string{"", "mcp", "serve", "sandboxd", "exec", "ls", "rm", "doctor", "image build", "token add", "token ls", "token rm", "version"} {
		arg := append(strings.Fields(command), "--help")
		cmd := exec.Command(binary, arg...)
		cmd.Env = []string{"DORMOUSE_HOME=/home/me/.dormouse", "COLUMNS=100"}
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("dormouse %v: %v", arg, err)
		}
		got.WriteString("$ dormouse " + strings.Join(arg, " ") + "\n" + string(out) + "\n")
	}
	const golden = "e2e/testdata/help.golden.txt"
	if os.Getenv("DORMOUSE_UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("the help differs from %s; if the change is intended, run make golden; got:\n%s", golden, got.String())
	}
}
