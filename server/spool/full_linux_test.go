package spool_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/dormouse-sandbox/dormouse/server/spool"
)

// TestDiskFull checks that writing a message or an answer to a full disk returns an error, and that the space of a failed
// message or answer is free after it is closed.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
		if slices.Contains(strings.Split(os.Getenv("DORMOUSE_TEST_REQUIRE"), ","), "gvisor") { // a machine that must run the gVisor tests can mount, too
			t.Fatalf("no small disk can be had here: %v", err)
		}
		t.Skipf("NOT TESTED: no small disk can be had here: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, 0) })
	f, err := spool.Open(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		m, _, flaw := in(f, spool.Limits{}, []byte(`{"a":"`+strings.Repeat("x", 2<<20)+`","id":1}`), 1<<16)
		if flaw == nil || flaw.Kind != spool.Failed || !strings.Contains(flaw.Text, "full") || !strings.HasSuffix(string(flaw.Head), `"id":1}`) {
			t.Errorf("a message: %+v", flaw)
		}
		m.Close()
		box := f.NewOutbox()
		if _, _, err := box.Base64(strings.NewReader(strings.Repeat("x", 2<<20))); !errors.Is(err, spool.ErrDisk) {
			t.Errorf("an answer: %v", err)
		}
		box.Close()
		m, _, flaw = in(f, spool.Limits{}, []byte(messages()["two"]), 1<<16)
		if flaw != nil {
			t.Errorf("after that: %s", flaw.Text)
		}
		m.Close()
	}
	if names, _ := os.ReadDir(dir); len(names) > 0 || f.Used() != 0 {
		t.Errorf("left: %v, %d bytes", names, f.Used())
	}
}
