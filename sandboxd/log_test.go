package sandboxd_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestTheLogHasTheCause checks that the log contains the causes of an error that clients do not see, however the error is
// wrapped, because the answers to clients refer to the log.
func TestTheLogHasTheCause(t *testing.T) {
	shown := sandbox.Errorf(sandbox.Unavailable, "it could not be started").WithCause(errors.New("runsc said why"))
	for name, err := range map[string]error{
		"a plain error":   shown,
		"a wrapped error": fmt.Errorf("create x: %w", shown),
		"a joined error":  errors.Join(fmt.Errorf("create x: %w", shown), errors.New("something else")),
		"a cause of a cause": sandbox.Errorf(sandbox.Unavailable, "outer").WithCause(
			sandbox.Errorf(sandbox.Unavailable, "it could not be started").WithCause(errors.New("runsc said why"))),
	} {
		t.Run(name, func(t *testing.T) {
			f, openErr := os.Create(filepath.Join(t.TempDir(), "log"))
			if openErr != nil {
				t.Fatal(openErr)
			}
			defer f.Close()
			sandboxd.NewLogger(f, "info").Warn("a sandbox could not be made", "error", err)
			text, _ := os.ReadFile(f.Name())
			for _, want := range []string{"it could not be started", "runsc said why"} {
				if strings.Count(string(text), want) != 1 {
					t.Errorf("the log has %s, want %q once", text, want)
				}
			}
		})
	}
}
