package enginetest

import (
	"net/url"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
)

// neighbours checks that two sandboxes of one image share no files: inotify in one sandbox does not report that the
// other sandbox uses a file, and both sandboxes can lock the file at the same path at the same time.
func (s *suite) neighbours(t *testing.T) {
	watcher, other := s.create(t, s.spec()), s.create(t, s.spec())
	guest := engine.BundleDir + "/guest"
	for name, paths := range map[string]url.Values{
		"the guest's": {"path": {guest, engine.BundleDir, engine.BundleDir + "/folder/file"}},
		"the image's": {"path": {"/etc", "/"}},
	} {
		t.Run(name, func(t *testing.T) {
			query := "?" + paths.Encode()
			for _, b := range []testSandbox{watcher, other} {
				if got := b.mustRequest(t, "POST", "/lock"+query, nil); got != "locked" {
					t.Errorf("lock of files that the other sandbox may have locked = %q, want %q", got, "locked")
				}
			}
			watcher.mustRequest(t, "POST", "/watch"+query, nil)
			other.mustRequest(t, "POST", "/run?program="+guest+"&arg=guest&arg=posture", nil) // the run opens the guest's program, and lists /
			if got := other.mustRequest(t, "POST", "/lock"+query, nil); got == "" {
				t.Error("the other sandbox gave no answer to /lock")
			}
			if got := watcher.mustRequest(t, "GET", "/watched", nil); got != "nothing" {
				t.Errorf("while the other sandbox used its files, this sandbox's watch reported %q, want %q", got, "nothing")
			}
			// The sandbox's own use of the files is reported, which shows that its watch works.
			watcher.mustRequest(t, "POST", "/run?program="+guest+"&arg=guest&arg=posture", nil)
			if got := watcher.mustRequest(t, "GET", "/watched", nil); got != "something" {
				t.Errorf("after this sandbox used its files, its watch reported %q, want %q", got, "something")
			}
		})
	}
}
