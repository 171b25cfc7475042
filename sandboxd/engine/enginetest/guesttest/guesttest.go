// Package guesttest contains tests that run the real guest on an engine. The conformance suite, enginetest, does not
// depend on the guest, so these tests have a package of their own. The tests of each engine call [DeadManSwitch].
package guesttest

import (
	"context"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// The path of the hostile code, from the folder of an engine's package.
const stopperFile = "../../guest/supervisor/testdata/stopper.py"

// DeadManSwitch checks that the guest ends an expired sandbox if no daemon does, even while hostile code in the sandbox
// sends SIGSTOP to every process that it can. open opens the engine and registers a cleanup that closes it. If
// withGuest is false, the engine need not be able to create sandboxes.
//
// The test does not wait for the guest's grace period. It sets an expiry for which that period is over already.
func DeadManSwitch(t *testing.T, open func(t *testing.T, withGuest bool) engine.Engine, spec engine.Spec) {
	stopper, err := os.ReadFile(stopperFile)
	if err != nil {
		t.Fatal(err)
	}
	e := open(t, true)
	if err := e.Create(t.Context(), spec); err != nil {
		t.Fatalf("Create: %v", err)
	}
	watcher := open(t, false)
	t.Cleanup(func() {
		if err := watcher.Remove(context.WithoutCancel(t.Context()), spec.ID); err != nil {
			t.Errorf("Remove: %v", err)
		}
	})
	client := guest.NewClient(func(ctx context.Context) (net.Conn, error) { return e.Dial(ctx, spec.ID) })
	defer client.Close()
	timeout := 60
	got, err := client.Execute(t.Context(), sandbox.NewExecutionID(), sandbox.ExecuteRequest{
		Code: "DELAY = 1\n" + string(stopper) + "print('alive')", Language: sandbox.Python, TimeoutSeconds: &timeout, WaitSeconds: 60})
	if err != nil || got.State != sandbox.ExecSucceeded || len(got.Events) == 0 || !strings.Contains(got.Events[0].Text, "alive") {
		t.Fatalf("the hostile code could not be started: %+v, %v", got, err)
	}
	if !runs(t, watcher, spec.ID) {
		t.Fatal("the sandbox does not run before its expiry")
	}
	if err := client.SetExpiry(t.Context(), time.Now().Add(-time.Hour)); err != nil {
		t.Fatalf("SetExpiry: %v", err)
	}
	client.Close()
	if err := e.Close(); err != nil { // as after the end of the daemon, nothing is connected to the sandbox
		t.Errorf("Close: %v", err)
	}
	began := time.Now()
	for runs(t, watcher, spec.ID) {
		if time.Since(began) > 2*time.Minute {
			t.Fatalf("the sandbox still runs %v after its expiry, want the guest to end it within seconds", time.Since(began).Round(time.Second))
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("the guest ended the sandbox after %v", time.Since(began))
}

// runs reports whether a sandbox runs.
func runs(t *testing.T, e engine.Engine, id sandbox.ID) bool {
	t.Helper()
	all, err := e.List(t.Context())
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	for _, c := range all {
		if c.ID == id {
			return c.Running
		}
	}
	return false
}
