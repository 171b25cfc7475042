package manager_test

import (
	"context"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/manager"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/fake"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

func asOwner(t testing.TB, owner sandbox.Owner) context.Context {
	return sandbox.WithOwner(t.Context(), owner)
}

// operationsOf returns a function for each operation that takes the id or name of a sandbox or the id of an execution.
func operationsOf(d *daemon) map[string]func(ctx context.Context, name, execution string) error {
	return map[string]func(ctx context.Context, name, execution string) error{
		"Get":    func(ctx context.Context, name, _ string) error { _, err := d.Get(ctx, name); return err },
		"Delete": func(ctx context.Context, name, _ string) error { return d.Delete(ctx, name) },
		"Update": func(ctx context.Context, name, _ string) error {
			_, err := d.Update(ctx, name, sandbox.UpdateRequest{TTL: new(ttl(time.Hour))})
			return err
		},
		"Execute": func(ctx context.Context, name, _ string) error {
			_, err := d.Execute(ctx, name, sandbox.ExecuteRequest{Code: "print x"})
			return err
		},
		"Execute with a request id": func(ctx context.Context, name, _ string) error {
			_, err := d.Execute(ctx, name, sandbox.ExecuteRequest{Code: "print x", RequestID: "request"})
			return err
		},
		"Create with fork_of": func(ctx context.Context, name, _ string) error {
			_, err := d.Create(ctx, sandbox.CreateRequest{ForkOf: name})
			return err
		},
		"ListFiles": func(ctx context.Context, name, _ string) error { _, _, err := d.ListFiles(ctx, name); return err },
		"WriteFile": func(ctx context.Context, name, _ string) error {
			_, err := d.WriteFile(ctx, name, "a", strings.NewReader("b"))
			return err
		},
		"ReadFile": func(ctx context.Context, name, _ string) error {
			body, _, err := d.ReadFile(ctx, name, "a", 0, -1)
			if err == nil {
				_ = body.Close()
			}
			return err
		},
		"GetExecution": func(ctx context.Context, _, execution string) error {
			_, err := d.GetExecution(ctx, execution, 0, sandbox.Window{})
			return err
		},
		"FollowExecution": func(ctx context.Context, _, execution string) error {
			return d.FollowExecution(ctx, execution, 1, func(sandbox.Event) error { return io.EOF })
		},
		"Interrupt": func(ctx context.Context, _, execution string) error {
			_, err := d.Interrupt(ctx, execution)
			return err
		},
	}
}

// TestS03_SandboxOfAnotherOwnerLooksAbsent checks that the sandboxes and executions of one owner look to another
// owner as if they did not exist. The errors have the same kind and text, in every state of the sandbox, whether
// it is named by its id or its display name. The calls of the other owner change nothing.
func TestS03_SandboxOfAnotherOwnerLooksAbsent(t *testing.T) {
	d := newDaemon(t)
	alice := asOwner(t, "alice")
	sb, err := d.Create(alice, sandbox.CreateRequest{DisplayName: "sales", TTL: ttl(24 * time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	deleted, err := d.Create(alice, sandbox.CreateRequest{DisplayName: "old"})
	if err != nil {
		t.Fatal(err)
	}
	ran, err := d.Execute(alice, "old", sandbox.ExecuteRequest{Code: "print x", WaitSeconds: 5})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Delete(alice, "old"); err != nil {
		t.Fatal(err)
	}
	e, err := d.Execute(alice, "sales", sandbox.ExecuteRequest{Code: "sleep 60s", RequestID: "request"})
	if err != nil {
		t.Fatal(err)
	}
	for operation, call := range operationsOf(d) {
		for _, c := range []struct{ name, execution, absentName, absentExecution string }{
			{string(sb.ID), string(e.ID), string(sandbox.NewID()), string(sandbox.NewExecutionID())},
			{string(deleted.ID), string(ran.ID), string(sandbox.NewID()), string(sandbox.NewExecutionID())},
			{"sales", string(e.ID), "sails", string(sandbox.NewExecutionID())},
			{"old", string(ran.ID), "odd", string(sandbox.NewExecutionID())},
		} {
			got := call(asOwner(t, "bob"), c.name, c.execution)
			want := call(asOwner(t, "bob"), c.absentName, c.absentExecution)
			if got == nil || want == nil || sandbox.KindOf(got) != sandbox.NotFound || sandbox.KindOf(want) != sandbox.NotFound {
				t.Errorf("%s of alice's %s = %v, and of a name that does not exist = %v; want not found for both", operation, c.name, got, want)
				continue
			}
			wantText := strings.NewReplacer(c.absentName, c.name, c.absentExecution, c.execution).Replace(want.Error())
			if got.Error() != wantText {
				t.Errorf("%s of alice's sandbox = %q, want %q, as for one that does not exist", operation, got, wantText)
			}
		}
	}
	for _, requestID := range []string{"request", "unknown"} {
		_, err := d.FindExecution(asOwner(t, "bob"), requestID)
		wantError(t, "FindExecution("+requestID+")", err, sandbox.NotFound, requestID)
	}
	for _, state := range []sandbox.State{"", sandbox.Running, sandbox.Terminated} {
		if page, err := d.List(asOwner(t, "bob"), sandbox.ListRequest{State: state}); err != nil || len(page.Sandboxes) != 0 {
			t.Errorf("List(%q) by bob = %+v, %v, want none", state, page, err)
		}
	}
	after, err := d.Get(alice, "sales")
	if err != nil || after.State != sandbox.Running || !after.ExpireTime.Equal(sb.ExpireTime) || len(after.Executions) != 1 {
		t.Errorf("Get() by alice after all calls by bob = %+v, %v, want the sandbox unchanged", after, err)
	}
	for operation, call := range operationsOf(d) {
		switch operation {
		// These operations change the sandbox or wait for its code, which still runs.
		case "Delete", "Execute with a request id", "Create with fork_of", "FollowExecution":
			continue
		}
		if err := call(alice, "sales", string(e.ID)); sandbox.KindOf(err) == sandbox.NotFound && operation != "ReadFile" {
			t.Errorf("%s by alice of her own sandbox = %v, want it found", operation, err)
		}
	}
}

// TestS03_ProvisioningSandboxIsHidden checks that another owner can neither see nor stop a sandbox that is being
// created.
func TestS03_ProvisioningSandboxIsHidden(t *testing.T) {
	d := newDaemon(t)
	d.eng.CreateGate = make(chan struct{})
	created := make(chan error, 1)
	go func() {
		_, err := d.Create(asOwner(t, "alice"), sandbox.CreateRequest{DisplayName: "sales"})
		created <- err
	}()
	var id string
	waitUntil(t, "the sandbox is being created", func() bool {
		page, err := d.List(asOwner(t, "alice"), sandbox.ListRequest{})
		if err == nil && len(page.Sandboxes) == 1 {
			id = string(page.Sandboxes[0].ID)
		}
		return id != ""
	})
	for _, name := range []string{id, "sales"} {
		for operation, call := range operationsOf(d) {
			if strings.HasSuffix(operation, "Execution") || operation == "Interrupt" {
				continue
			}
			ctx, cancel := context.WithTimeout(asOwner(t, "bob"), 5*time.Second)
			wantError(t, operation+" of "+name, call(ctx, name, ""), sandbox.NotFound, "there is no sandbox")
			cancel()
		}
		if got, err := d.Get(asOwner(t, "alice"), name); err != nil || got.State != sandbox.Provisioning {
			t.Errorf("Get(%s) by alice = %+v, %v, want it provisioning", name, got, err)
		}
	}
	close(d.eng.CreateGate)
	if err := <-created; err != nil {
		t.Errorf("Create() by alice = %v, want no error", err)
	}
}

// TestS03_NamesAreSeparateForEachOwner checks that two owners can use the same display names and request ids, and
// that each gets its own sandboxes and executions.
func TestS03_NamesAreSeparateForEachOwner(t *testing.T) {
	d := newDaemon(t)
	created := map[sandbox.Owner]sandbox.ID{}
	ran := map[sandbox.Owner]sandbox.ExecutionID{}
	owners := []sandbox.Owner{"alice", "bob", sandbox.Operator}
	for _, owner := range owners {
		for range 2 { // the second time is a retry
			sb, err := d.Create(asOwner(t, owner), sandbox.CreateRequest{DisplayName: "sales", RequestID: "one"})
			if err != nil {
				t.Fatal(err)
			}
			if created[owner] != "" && created[owner] != sb.ID {
				t.Errorf("a retry by %q created another sandbox", owner)
			}
			created[owner] = sb.ID
			e, err := d.Execute(asOwner(t, owner), "sales", sandbox.ExecuteRequest{Code: "print x", RequestID: "two", WaitSeconds: 5})
			if err != nil || e.SandboxID != sb.ID {
				t.Fatalf("Execute() by %q = %+v, %v, want it in %s", owner, e, err, sb.ID)
			}
			if ran[owner] != "" && ran[owner] != e.ID {
				t.Errorf("a retry by %q started another execution", owner)
			}
			ran[owner] = e.ID
		}
	}
	if len(d.eng.IDs()) != len(owners) {
		t.Errorf("%d containers, want %d", len(d.eng.IDs()), len(owners))
	}
	for _, owner := range owners {
		if got, err := d.Get(asOwner(t, owner), "sales"); err != nil || got.ID != created[owner] {
			t.Errorf("Get(sales) by %q = %s, %v, want %s", owner, got.ID, err, created[owner])
		}
		if got, err := d.FindExecution(asOwner(t, owner), "two"); err != nil || got.ID != ran[owner] {
			t.Errorf("FindExecution() by %q = %s, %v, want %s", owner, got.ID, err, ran[owner])
		}
	}
}

// TestS03_ListReturnsOnlyOwnSandboxes checks that List returns to an owner only its own sandboxes, even if the
// sandboxes of other owners lie between them, and even with a page token that another owner received. The operator
// gets all sandboxes.
func TestS03_ListReturnsOnlyOwnSandboxes(t *testing.T) {
	d := newDaemon(t)
	want := map[sandbox.Owner]int{"alice": 3, "bob": 2, sandbox.Operator: 6}
	for _, owner := range []sandbox.Owner{"alice", "bob", "alice", sandbox.Operator, "bob", "alice"} {
		if _, err := d.Create(asOwner(t, owner), sandbox.CreateRequest{DisplayName: "of:" + string(owner)}); err != nil {
			t.Fatal(err)
		}
	}
	tokens := map[sandbox.Owner]string{}
	for owner, n := range want {
		seen := 0
		for req := (sandbox.ListRequest{PageSize: 1}); ; seen++ {
			page, err := d.List(asOwner(t, owner), req)
			if err != nil || len(page.Sandboxes) != 1 || owner != sandbox.Operator && page.Sandboxes[0].DisplayName != "of:"+string(owner) {
				t.Fatalf("List() by %q = %+v, %v, want one sandbox of this owner", owner, page, err)
			}
			if req.PageToken = page.NextPageToken; req.PageToken == "" {
				seen++
				break
			}
			tokens[owner] = page.NextPageToken
		}
		if seen != n {
			t.Errorf("List() by %q returns %d sandboxes, want %d", owner, seen, n)
		}
	}
	page, err := d.List(asOwner(t, "bob"), sandbox.ListRequest{PageToken: tokens["alice"]})
	for _, sb := range page.Sandboxes {
		if err != nil || sb.DisplayName != "of:bob" {
			t.Errorf("List() by bob with a token of alice contains %+v, %v, want only his own sandboxes", sb, err)
		}
	}
}

// TestS03_OperatorFindsSandboxesOnlyByID checks that the operator can use any owner's sandbox by its id, but not
// by its display name. Otherwise an owner who gives a sandbox the display name of one of the operator's sandboxes
// could receive the operator's code and files.
func TestS03_OperatorFindsSandboxesOnlyByID(t *testing.T) {
	d := newDaemon(t)
	sb, err := d.Create(asOwner(t, "alice"), sandbox.CreateRequest{DisplayName: "sales"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Execute(t.Context(), "sales", sandbox.ExecuteRequest{Code: "print x"})
	wantError(t, "Execute(sales) by the operator", err, sandbox.NotFound, "sales")
	e := d.execute(t, sb.ID, "print x", 5)
	if got, err := d.GetExecution(asOwner(t, "alice"), string(e.ID), 0, sandbox.Window{}); err != nil || got.ID != e.ID {
		t.Errorf("GetExecution() by alice of an execution that the operator ran in her sandbox = %+v, %v, want it", got, err)
	}
	if _, err := d.Execute(t.Context(), string(sb.ID), sandbox.ExecuteRequest{Code: "print x", RequestID: "r", WaitSeconds: 5}); err != nil {
		t.Errorf("Execute() = %v", err)
	}
	again, err := d.Execute(asOwner(t, "alice"), "sales", sandbox.ExecuteRequest{Code: "print y", RequestID: "r", WaitSeconds: 5})
	if err != nil || output(again) != "y" {
		t.Errorf("Execute() by alice with the operator's request id = %+v, %v, want y", again, err)
	}
	if err := d.Delete(t.Context(), string(sb.ID)); err != nil {
		t.Errorf("Delete() = %v", err)
	}
}

// TestS03_OwnersSurviveRestart checks that owners are recorded: after a restart of the daemon, each sandbox still
// belongs to its owner.
func TestS03_OwnersSurviveRestart(t *testing.T) {
	eng := fake.NewEngine()
	path := t.TempDir() + "/a.db"
	d := startDaemon(t, path, eng)
	sb, err := d.Create(asOwner(t, "alice"), sandbox.CreateRequest{DisplayName: "sales"})
	if err != nil {
		t.Fatal(err)
	}
	d.stop(t)
	d = startDaemon(t, path, eng)
	defer func() { d.stop(t); _ = eng.Close() }()
	_, err = d.Get(asOwner(t, "bob"), string(sb.ID))
	wantError(t, "Get() by bob", err, sandbox.NotFound, "there is no sandbox")
	if got, err := d.Get(asOwner(t, "alice"), "sales"); err != nil || got.ID != sb.ID {
		t.Errorf("Get() by alice = %+v, %v, want her sandbox", got, err)
	}
}

// TestS07_OwnerQuotaIsEnforced checks that an owner who has reached MaxSandboxesPerOwner gets an error
// immediately. No sandbox is suspended for that owner, and other owners are not affected.
func TestS07_OwnerQuotaIsEnforced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon(t, func(c *manager.Config) { c.MaxSandboxes, c.MaxSandboxesPerOwner, c.IdleSuspend = 5, 2, time.Hour })
		for range 2 {
			if _, err := d.Create(asOwner(t, "alice"), sandbox.CreateRequest{}); err != nil {
				t.Fatal(err)
			}
		}
		start := time.Now()
		_, err := d.Create(asOwner(t, "alice"), sandbox.CreateRequest{})
		wantError(t, "the third Create() by alice", err, sandbox.Limit, "--max-sandboxes-per-owner", "2 sandboxes")
		if suspends, _ := d.eng.Suspends(); suspends > 0 || time.Since(start) > 500*time.Millisecond {
			t.Errorf("the refusal took %v and %d suspends, want at most 500ms and none", time.Since(start), suspends)
		}
		for _, owner := range []sandbox.Owner{"bob", sandbox.Operator, sandbox.Operator} {
			if _, err := d.Create(asOwner(t, owner), sandbox.CreateRequest{}); err != nil {
				t.Errorf("Create() by %q = %v, want no error", owner, err)
			}
		}
	})
}
