package manager_test

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/manager"
	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/fake"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

func as(t testing.TB, owner sandbox.Owner) context.Context {
	return sandbox.WithOwner(t.Context(), owner)
}

// uses returns a function for each operation that takes the id or name of a sandbox or the id of an execution.
func uses(d *daemon) map[string]func(ctx context.Context, box, execution string) error {
	return map[string]func(ctx context.Context, box, execution string) error{
		"Get":    func(ctx context.Context, box, _ string) error { _, err := d.Get(ctx, box); return err },
		"Delete": func(ctx context.Context, box, _ string) error { return d.Delete(ctx, box) },
		"Update": func(ctx context.Context, box, _ string) error {
			_, err := d.Update(ctx, box, sandbox.UpdateRequest{TTL: new(ttl(time.Hour))})
			return err
		},
		"Execute": func(ctx context.Context, box, _ string) error {
			_, err := d.Execute(ctx, box, sandbox.ExecuteRequest{Code: "print x"})
			return err
		},
		"Execute with a request id": func(ctx context.Context, box, _ string) error {
			_, err := d.Execute(ctx, box, sandbox.ExecuteRequest{Code: "print x", RequestID: "hers"})
			return err
		},
		"Create with fork_of": func(ctx context.Context, box, _ string) error {
			_, err := d.Create(ctx, sandbox.CreateRequest{ForkOf: box})
			return err
		},
		"ListFiles": func(ctx context.Context, box, _ string) error { _, _, err := d.ListFiles(ctx, box); return err },
		"WriteFile": func(ctx context.Context, box, _ string) error {
			_, err := d.WriteFile(ctx, box, "a", strings.NewReader("b"))
			return err
		},
		"ReadFile": func(ctx context.Context, box, _ string) error {
			body, _, err := d.ReadFile(ctx, box, "a", 0, -1)
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

// TestS03_NotYours checks that the sandboxes and executions of one owner look to another owner as if they did
// not exist. The errors have the same kind and text, in every state of the sandbox, whether it is named by its
// id or its display name. The other owner's calls change nothing.
func TestS03_NotYours(t *testing.T) {
	d := newDaemon(t)
	alice := as(t, "alice")
	box, err := d.Create(alice, sandbox.CreateRequest{DisplayName: "sales", TTL: ttl(24 * time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	ended, err := d.Create(alice, sandbox.CreateRequest{DisplayName: "old"})
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
	e, err := d.Execute(alice, "sales", sandbox.ExecuteRequest{Code: "sleep 60s", RequestID: "hers"})
	if err != nil {
		t.Fatal(err)
	}
	for what, use := range uses(d) {
		for _, name := range []struct{ box, execution, neither, none string }{
			{string(box.ID), string(e.ID), string(sandbox.NewID()), string(sandbox.NewExecutionID())},
			{string(ended.ID), string(ran.ID), string(sandbox.NewID()), string(sandbox.NewExecutionID())},
			{"sales", string(e.ID), "sails", string(sandbox.NewExecutionID())},
			{"old", string(ran.ID), "odd", string(sandbox.NewExecutionID())},
		} {
			got := use(as(t, "bob"), name.box, name.execution)
			want := use(as(t, "bob"), name.neither, name.none)
			if got == nil || want == nil || sandbox.KindOf(got) != sandbox.NotFound || sandbox.KindOf(want) != sandbox.NotFound {
				t.Errorf("%s: of another's %s: %v; of none: %v, want both not found", what, name.box, got, want)
				continue
			}
			says := strings.NewReplacer(name.neither, name.box, name.none, name.execution).Replace(want.Error())
			if got.Error() != says {
				t.Errorf("%s: of another's: %q, of none: %q", what, got, says)
			}
		}
	}
	for _, find := range []string{"hers", "nobody's"} {
		_, err := d.FindExecution(as(t, "bob"), find)
		wantError(t, "FindExecution("+find+")", err, sandbox.NotFound, find)
	}
	for _, state := range []sandbox.State{"", sandbox.Running, sandbox.Terminated} {
		if page, err := d.List(as(t, "bob"), sandbox.ListRequest{State: state}); err != nil || len(page.Sandboxes) != 0 {
			t.Errorf("List(%q) of bob = %+v, %v, want none", state, page, err)
		}
	}
	after, err := d.Get(alice, "sales")
	if err != nil || after.State != sandbox.Running || !after.ExpireTime.Equal(box.ExpireTime) || len(after.Executions) != 1 {
		t.Errorf("after all that it is %+v, %v, want it as it was", after, err)
	}
	for what, use := range uses(d) {
		switch what {
		// These operations change the sandbox or wait for its code, which still runs.
		case "Delete", "Execute with a request id", "Create with fork_of", "FollowExecution":
			continue
		}
		if err := use(alice, "sales", string(e.ID)); sandbox.KindOf(err) == sandbox.NotFound && what != "ReadFile" {
			t.Errorf("%s of her own: %v", what, err)
		}
	}
}

// TestS03_BeingMade checks that another owner can neither see nor stop a sandbox that is being created.
func TestS03_BeingMade(t *testing.T) {
	d := newDaemon(t)
	d.eng.CreateGate = make(chan struct{})
	made := make(chan error, 1)
	go func() {
		_, err := d.Create(as(t, "alice"), sandbox.CreateRequest{DisplayName: "sales"})
		made <- err
	}()
	var id string
	eventually(t, "it is being made", func() bool {
		page, err := d.List(as(t, "alice"), sandbox.ListRequest{})
		if err == nil && len(page.Sandboxes) == 1 {
			id = string(page.Sandboxes[0].ID)
		}
		return id != ""
	})
	for _, name := range []string{id, "sales"} {
		for what, use := range uses(d) {
			if strings.HasSuffix(what, "Execution") || what == "Interrupt" {
				continue
			}
			ctx, cancel := context.WithTimeout(as(t, "bob"), 5*time.Second)
			wantError(t, what+" of "+name, use(ctx, name, ""), sandbox.NotFound, "there is no sandbox")
			cancel()
		}
		if got, err := d.Get(as(t, "alice"), name); err != nil || got.State != sandbox.Provisioning {
			t.Errorf("Get(%s) of alice = %+v, %v", name, got, err)
		}
	}
	close(d.eng.CreateGate)
	if err := <-made; err != nil {
		t.Errorf("Create() of alice = %v", err)
	}
}

// TestS03_SameNames checks that two owners can use the same display names and request ids, and that each gets
// its own sandboxes and executions.
func TestS03_SameNames(t *testing.T) {
	d := newDaemon(t)
	made := map[sandbox.Owner]sandbox.ID{}
	ran := map[sandbox.Owner]sandbox.ExecutionID{}
	owners := []sandbox.Owner{"alice", "bob", sandbox.Operator}
	for _, owner := range owners {
		for range 2 { // the second time is a retry
			box, err := d.Create(as(t, owner), sandbox.CreateRequest{DisplayName: "sales", RequestID: "one"})
			if err != nil {
				t.Fatal(err)
			}
			if made[owner] != "" && made[owner] != box.ID {
				t.Errorf("a retry of %q made another sandbox", owner)
			}
			made[owner] = box.ID
			e, err := d.Execute(as(t, owner), "sales", sandbox.ExecuteRequest{Code: "print x", RequestID: "two", WaitSeconds: 5})
			if err != nil || e.SandboxID != box.ID {
				t.Fatalf("Execute() of %q = %+v, %v, want it in %s", owner, e, err, box.ID)
			}
			if ran[owner] != "" && ran[owner] != e.ID {
				t.Errorf("a retry of %q ran again", owner)
			}
			ran[owner] = e.ID
		}
	}
	if len(d.eng.IDs()) != len(owners) {
		t.Errorf("there are %d containers, want %d", len(d.eng.IDs()), len(owners))
	}
	for _, owner := range owners {
		if got, err := d.Get(as(t, owner), "sales"); err != nil || got.ID != made[owner] {
			t.Errorf("Get(sales) of %q = %s, %v, want %s", owner, got.ID, err, made[owner])
		}
		if got, err := d.FindExecution(as(t, owner), "two"); err != nil || got.ID != ran[owner] {
			t.Errorf("FindExecution() of %q = %s, %v, want %s", owner, got.ID, err, ran[owner])
		}
	}
}

// TestS03_Pages checks that List returns to an owner only its own sandboxes, even if the sandboxes of other
// owners lie between them, and even with a page token that another owner received. The operator gets all
// sandboxes.
func TestS03_Pages(t *testing.T) {
	d := newDaemon(t)
	want := map[sandbox.Owner]int{"alice": 3, "bob": 2, sandbox.Operator: 6}
	for _, owner := range []sandbox.Owner{"alice", "bob", "alice", sandbox.Operator, "bob", "alice"} {
		if _, err := d.Create(as(t, owner), sandbox.CreateRequest{DisplayName: "of:" + string(owner)}); err != nil {
			t.Fatal(err)
		}
	}
	tokens := map[sandbox.Owner]string{}
	for owner, n := range want {
		seen := 0
		for ask := (sandbox.ListRequest{PageSize: 1}); ; seen++ {
			page, err := d.List(as(t, owner), ask)
			if err != nil || len(page.Sandboxes) != 1 || owner != sandbox.Operator && page.Sandboxes[0].DisplayName != "of:"+string(owner) {
				t.Fatalf("List() of %q = %+v, %v", owner, page, err)
			}
			if ask.PageToken = page.NextPageToken; ask.PageToken == "" {
				seen++
				break
			}
			tokens[owner] = page.NextPageToken
		}
		if seen != n {
			t.Errorf("%q sees %d, want %d", owner, seen, n)
		}
	}
	page, err := d.List(as(t, "bob"), sandbox.ListRequest{PageToken: tokens["alice"]})
	for _, box := range page.Sandboxes {
		if err != nil || box.DisplayName != "of:bob" {
			t.Errorf("with another's token bob sees %+v, %v", box, err)
		}
	}
}

// TestS03_Operator checks that the operator can use any owner's sandbox by its id, but not by its display name.
// Otherwise an owner who gives a sandbox the display name of one of the operator's sandboxes could receive the
// operator's code and files.
func TestS03_Operator(t *testing.T) {
	d := newDaemon(t)
	box, err := d.Create(as(t, "alice"), sandbox.CreateRequest{DisplayName: "sales"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Execute(t.Context(), "sales", sandbox.ExecuteRequest{Code: "print x"})
	wantError(t, "Execute(sales) of the operator", err, sandbox.NotFound, "sales")
	e := d.run(t, box.ID, "print x", 5)
	if got, err := d.GetExecution(as(t, "alice"), string(e.ID), 0, sandbox.Window{}); err != nil || got.ID != e.ID {
		t.Errorf("GetExecution() of what the operator ran in hers = %+v, %v", got, err)
	}
	if _, err := d.Execute(t.Context(), string(box.ID), sandbox.ExecuteRequest{Code: "print x", RequestID: "r", WaitSeconds: 5}); err != nil {
		t.Errorf("Execute() = %v", err)
	}
	again, err := d.Execute(as(t, "alice"), "sales", sandbox.ExecuteRequest{Code: "print y", RequestID: "r", WaitSeconds: 5})
	if err != nil || output(again) != "y" {
		t.Errorf("Execute() of alice with the operator's request id = %+v, %v, want y", again, err)
	}
	if err := d.Delete(t.Context(), string(box.ID)); err != nil {
		t.Errorf("Delete() = %v", err)
	}
}

// TestS03_Restart checks that owners are recorded: after a restart of the daemon, each sandbox still belongs to
// its owner.
func TestS03_Restart(t *testing.T) {
	eng := fake.NewEngine()
	path := t.TempDir() + "/a.db"
	d := start(t, path, eng)
	box, err := d.Create(as(t, "alice"), sandbox.CreateRequest{DisplayName: "sales"})
	if err != nil {
		t.Fatal(err)
	}
	d.stop(t)
	d = start(t, path, eng)
	defer func() { d.stop(t); _ = eng.Close() }()
	_, err = d.Get(as(t, "bob"), string(box.ID))
	wantError(t, "Get() of bob", err, sandbox.NotFound, "there is no sandbox")
	if got, err := d.Get(as(t, "alice"), "sales"); err != nil || got.ID != box.ID {
		t.Errorf("Get() of alice = %+v, %v", got, err)
	}
}

// TestS07_Share checks that an owner who has reached MaxSandboxesPerOwner gets an error immediately. No sandbox
// is suspended for that owner, and other owners are not affected.
func TestS07_Share(t *testing.T) {
	d := newDaemon(t, func(c *manager.Config) { c.MaxSandboxes, c.MaxSandboxesPerOwner, c.IdleSuspend = 5, 2, time.Hour })
	for range 2 {
		if _, err := d.Create(as(t, "alice"), sandbox.CreateRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	begun := time.Now()
	_, err := d.Create(as(t, "alice"), sandbox.CreateRequest{})
	wantError(t, "her third", err, sandbox.Limit, "--max-sandboxes-per-owner", "2 sandboxes")
	if suspends, _ := d.eng.Suspends(); suspends > 0 || time.Since(begun) > 500*time.Millisecond {
		t.Errorf("it took %v and %d suspends", time.Since(begun), suspends)
	}
	for _, owner := range []sandbox.Owner{"bob", sandbox.Operator, sandbox.Operator} {
		if _, err := d.Create(as(t, owner), sandbox.CreateRequest{}); err != nil {
			t.Errorf("Create() of %q = %v", owner, err)
		}
	}
}
