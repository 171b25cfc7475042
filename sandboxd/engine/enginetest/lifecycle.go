package enginetest

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// lifecycle tests Create, Dial, List and Remove of [engine.Engine], and their errors.
func (s *suite) lifecycle(t *testing.T) {
	t.Run("the guest of a created sandbox gets the arguments of its spec", func(t *testing.T) {
		spec := s.spec()
		var args []string
		if err := json.Unmarshal([]byte(s.create(t, spec).mustRequest(t, "GET", "/args", nil)), &args); err != nil {
			t.Fatal(err)
		}
		for _, arg := range engine.GuestArgs(spec)[2:] {
			if !slices.Contains(args, arg) {
				t.Errorf("the guest's arguments are %q, want %s among them", args, arg)
			}
		}
	})
	t.Run("List returns a sandbox until it is removed", func(t *testing.T) {
		b := s.create(t, s.spec())
		if got, want := list(t, s.engine), (engine.Container{ID: b.id, Running: true}); len(got) != 1 || got[0] != want {
			t.Errorf("List() = %+v, want %+v alone", got, want)
		}
		remove(t, s.engine, b.id)
		if got := list(t, s.engine); len(got) != 0 {
			t.Errorf("List() after Remove = %+v, want nothing", got)
		}
		_, err := s.engine.Dial(t.Context(), b.id)
		wantKind(t, "Dial after Remove", err, sandbox.NotFound)
	})
	t.Run("a missing sandbox can be removed but not dialled", func(t *testing.T) {
		for _, id := range []sandbox.ID{sandbox.NewID(), "", "sbx_", "sbx_../../etc/passwd", "x?force=1", "sbx_\x00\n"} {
			remove(t, s.engine, id)
			_, err := s.engine.Dial(t.Context(), id)
			wantKind(t, "Dial("+string(id)+")", err, sandbox.NotFound)
		}
	})
	t.Run("Create rejects an invalid id", func(t *testing.T) {
		for _, id := range []sandbox.ID{"", "sbx_x", "x", "../x", `{"a":"b"}`} {
			spec := s.spec()
			spec.ID = id
			wantKind(t, "Create("+string(id)+")", s.engine.Create(t.Context(), spec), sandbox.Invalid)
		}
	})
	t.Run("Create rejects an id that is in use", func(t *testing.T) {
		spec := s.spec()
		b := s.create(t, spec)
		if err := s.engine.Create(t.Context(), spec); err == nil {
			t.Error("the second Create = nil, want an error")
		}
		b.mustRequest(t, "GET", "/args", nil) // the first sandbox still answers
	})
	t.Run("Create with a missing image is unavailable and leaves nothing", func(t *testing.T) {
		spec := s.spec()
		spec.Image = "dormouse-test-no-such-image:1"
		wantKind(t, "Create", s.engine.Create(t.Context(), spec), sandbox.Unavailable)
		s.wantEmpty(t, s.engine)
	})
	t.Run("Create with a guest that can't start leaves nothing", func(t *testing.T) {
		e := s.open(t, "test-"+string(sandbox.NewID()), Guest([]byte("#!/no/such/interpreter\n")))
		if err := e.Create(t.Context(), s.spec()); err == nil {
			t.Error("Create = nil, want an error")
		}
		s.wantEmpty(t, e)
	})
	t.Run("a cancelled Create leaves nothing", func(t *testing.T) {
		for giveUpAfter := time.Millisecond; giveUpAfter < 400*time.Millisecond; giveUpAfter *= 2 {
			ctx, cancel := context.WithTimeout(t.Context(), giveUpAfter)
			spec := s.spec()
			err := s.engine.Create(ctx, spec)
			cancel()
			if err == nil {
				remove(t, s.engine, spec.ID)
			}
		}
		s.wantEmpty(t, s.engine)
	})
	t.Run("List returns an ended sandbox as not running", func(t *testing.T) {
		b := s.create(t, s.spec())
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := b.request(ctx, "POST", "/exit", nil); err == nil || ctx.Err() != nil {
			t.Errorf("the request to end the sandbox = %v, want an error within a minute", err)
		}
		if got := s.awaitEnd(t); got.Detail == "" {
			t.Errorf("List() = %+v, want a Detail that describes how the sandbox ended", got)
		}
		_, err := s.engine.Dial(t.Context(), b.id)
		wantKind(t, "Dial", err, sandbox.NotFound)
	})
	t.Run("an engine does not see the sandboxes of other homes", func(t *testing.T) {
		b, other := s.create(t, s.spec()), s.openHome(t)
		if got := list(t, other); len(got) != 0 {
			t.Errorf("the other home's List() = %+v, want nothing", got)
		}
		_, err := other.Dial(t.Context(), b.id)
		wantKind(t, "the other home's Dial", err, sandbox.NotFound)
		remove(t, other, b.id)
		b.mustRequest(t, "GET", "/args", nil)
	})
	t.Run("ten sandboxes can be created and removed at once", func(t *testing.T) {
		var group sync.WaitGroup
		specs := make([]engine.Spec, 10)
		for i := range specs {
			specs[i] = s.spec()
			group.Go(func() {
				if err := s.engine.Create(t.Context(), specs[i]); err != nil {
					t.Errorf("Create: %v", err)
					return
				}
				if _, err := s.dial(t, specs[i].ID).request(t.Context(), "GET", "/args", nil); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		if got := list(t, s.engine); len(got) != len(specs) {
			t.Errorf("List() has %d sandboxes, want %d", len(got), len(specs))
		}
		for _, spec := range specs {
			group.Go(func() { remove(t, s.engine, spec.ID) })
			group.Go(func() { remove(t, s.engine, spec.ID) }) // a second removal at the same time must succeed too
		}
		group.Wait()
		s.wantEmpty(t, s.engine)
	})
}

// wantEmpty fails the test if the engine lists a sandbox, and removes the sandboxes that are left.
func (s *suite) wantEmpty(t *testing.T, e engine.Engine) {
	t.Helper()
	for _, c := range list(t, e) {
		t.Errorf("a sandbox is left: %+v", c)
		remove(t, e, c.ID)
	}
}
