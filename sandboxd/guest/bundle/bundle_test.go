package bundle_test

import (
	"io/fs"
	"regexp"
	"testing"
	"testing/fstest"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/bundle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

func TestFiles(t *testing.T) {
	var b bundle.Bundle
	if !regexp.MustCompile(`^[0-9a-f]{12}$`).MatchString(b.ID()) {
		t.Errorf("ID() = %q, want 12 hexadecimal digits", b.ID())
	}
	if _, err := b.Files("vax"); sandbox.KindOf(err) != sandbox.Unavailable {
		t.Errorf("Files(vax) = %v, want unavailable", err)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		files, err := b.Files(arch)
		if err != nil {
			t.Skipf("NOT TESTED: %v", err)
		}
		if err := fstest.TestFS(files, "guest", "build-id", "kernels/python/kernel.py"); err != nil {
			t.Error(err)
		}
		if st, err := fs.Stat(files, "guest"); err != nil || st.Mode() != 0o755 {
			t.Errorf("Stat(guest) = %v, %v, want mode 0755", st, err)
		}
	}
}
