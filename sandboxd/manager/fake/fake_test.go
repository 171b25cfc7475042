package fake_test

import (
	"bytes"
	"errors"
	"io/fs"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/enginetest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/fake"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestSuite checks that the fake engine behaves as the manager can expect of a real engine.
func TestSuite(t *testing.T) {
	const image, guest = "an-image:1", "the guest"
	homes := map[string]*fake.Engine{}
	enginetest.RunContract(t, func(t *testing.T, home string, bundle engine.Bundle) engine.Engine {
		if homes[home] == nil {
			e := fake.NewEngine()
			e.StateBytes = sandbox.MiB
			e.Image = image
			files, err := bundle.Files("amd64")
			if err != nil {
				t.Fatal(err)
			}
			if program, err := fs.ReadFile(files, "guest"); err != nil || !bytes.Equal(program, []byte(guest)) {
				e.FailCreate = errors.New("the guest is not a program")
			}
			homes[home] = e
			t.Cleanup(func() { _ = e.Close() })
		}
		return homes[home]
	}, image, enginetest.Guest([]byte(guest)))
}
