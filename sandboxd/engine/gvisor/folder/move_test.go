package folder

import (
	"os"
	"path/filepath"
	"testing"
)

// write creates a folder with a file that contains text.
func write(t *testing.T, dir, text string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// want fails the test unless the file in a folder contains text. If text is empty, it fails the test if the folder exists.
func want(t *testing.T, dir, text string) {
	t.Helper()
	got, _ := os.ReadFile(filepath.Join(dir, "file"))
	if string(got) != text || text == "" && Exists(dir) {
		t.Errorf("%s contains %q, want %q", filepath.Base(dir), got, text)
	}
}

func TestFoldersExchangeTheirNames(t *testing.T) {
	for name, exchange := range map[string]func(l Layout, making, to string) error{
		"as the file system can": Layout.MoveOrExchange,
		"in steps":               func(_ Layout, making, to string) error { return exchangeInSteps(making, to) },
	} {
		t.Run(name, func(t *testing.T) {
			l := Layout{Dir: t.TempDir()}
			making, to := write(t, filepath.Join(l.Dir, "making"), "new"), write(t, filepath.Join(l.Dir, "to"), "old")
			write(t, to+asideSuffix, "a leftover")
			if err := exchange(l, making, to); err != nil {
				t.Fatal(err)
			}
			want(t, to, "new")
			want(t, making, "old")
		})
	}
}

// TestFailedExchangeKeepsTheOldFolder checks that the old folder is at its path again if the new one can't be moved there.
func TestFailedExchangeKeepsTheOldFolder(t *testing.T) {
	dir := t.TempDir()
	to := write(t, filepath.Join(dir, "to"), "old")
	if err := exchangeInSteps(filepath.Join(dir, "missing"), to); err == nil {
		t.Error("exchangeInSteps returned no error for a missing folder")
	}
	want(t, to, "old")
}

// TestInterruptedMovesAreFinished checks that a crash between the steps of an exchange loses neither folder.
func TestInterruptedMovesAreFinished(t *testing.T) {
	l := Layout{Dir: t.TempDir()}
	if err := l.Make(); err != nil {
		t.Fatal(err)
	}
	undone := filepath.Join(l.Sandboxes(), "sbx_a", "kept") // the crash came before the new folder had its name
	write(t, undone+asideSuffix, "old")
	done := write(t, filepath.Join(l.Snapshots(), "0123"), "new") // the crash came before the old folder was removed
	write(t, done+asideSuffix, "old")
	guest := filepath.Join(l.Dir, "guest", "0123-amd64")
	write(t, guest+asideSuffix, "old")
	if err := l.FinishMoves(); err != nil {
		t.Fatal(err)
	}
	want(t, undone, "old")
	want(t, done, "new")
	want(t, guest, "old")
	for _, dir := range []string{undone, done, guest} {
		want(t, dir+asideSuffix, "")
	}
}
