//go:build unix

package sandboxd_test

import (
	"context"
	"log/slog"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

var errNoEngine = sandbox.Errorf(sandbox.Unavailable, "no engine answers: start one")

// config returns the configuration of a daemon whose engine cannot be opened. The tests of this package need no engine.
func config(dir string) sandboxd.Config {
	return sandboxd.Config{Settings: sandboxd.Settings{Home: dir, Image: "an-image:1"}, Version: "1.2.3", Logger: slog.New(slog.DiscardHandler)}.
		WithEngine(func(context.Context) (engine.Engine, error) { return nil, errNoEngine })
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
