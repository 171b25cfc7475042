package folder_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

func FuzzParsePooled(f *testing.F) {
	id := sandbox.NewID()
	name := "spare-" + strings.Repeat("a2", 13)
	for _, text := range []string{"", name, name + " " + string(id) + "\n", name + " " + string(sandbox.NewID()), "..", "spare-", name + "/..", name + "\n\n"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, ok := folder.ParsePooled(text, id)
		if ok && (strings.ContainsAny(got, "/. \n") || !strings.HasPrefix(got, "spare-") || len(got) != len(name)) {
			t.Errorf("ParsePooled(%q) = %q, want no name", text, got)
		}
		if ok && bytes.Contains(text, []byte(" ")) && !bytes.Contains(text, []byte(id)) {
			t.Errorf("ParsePooled(%q) = %q, want no name: the file is another sandbox's", text, got)
		}
	})
}
