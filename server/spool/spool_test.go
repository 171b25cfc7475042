package spool_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/dormouse-sandbox/dormouse/server/spool"
)

func open(t testing.TB, maximum int64) *spool.Folder {
	t.Helper()
	f, err := spool.Open(filepath.Join(t.TempDir(), "spool"), maximum)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// in writes text to a new message, in pieces of the given size, and returns the message and the results of End.
func in(f *spool.Folder, l spool.Limits, text []byte, piece int) (*spool.Message, []byte, *spool.Flaw) {
	m := f.NewMessage(l)
	for len(text) > 0 {
		n := min(piece, len(text))
		m.Write(bytes.Clone(text[:n])) // a copy, because Write must not keep its argument
		text = text[n:]
	}
	kept, flaw := m.End()
	return m, kept, flaw
}

// restore replaces the placeholders in v with the long strings that they stand for, and returns the result. It changes
// lists and maps in place.
func restore(t testing.TB, m *spool.Message, v any) any {
	switch v := v.(type) {
	case string:
		if s, ok := m.Find(v); ok {
			b, err := io.ReadAll(s.Open())
			if err != nil || int64(len(b)) != s.Size() {
				t.Fatalf("a string of %d bytes: %d bytes, %v", s.Size(), len(b), err)
			}
			return string(b)
		}
	case []any:
		for i := range v {
			v[i] = restore(t, m, v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = restore(t, m, v[k])
		}
	}
	return v
}

// checkRoundTrip checks that a message that is spooled and restored decodes to the same value as with encoding/json. It
// returns the number of strings that were on disk.
func checkRoundTrip(t testing.TB, f *spool.Folder, l spool.Limits, text []byte, piece int) (strings int) {
	var want, got any
	wantErr := json.Unmarshal(text, &want)
	m, kept, flaw := in(f, l, text, piece)
	defer m.Close()
	if flaw != nil {
		if flaw.Kind != spool.Malformed || wantErr == nil && utf8.Valid(text) {
			t.Fatalf("pieces of %d: refused: %s", piece, flaw.Text)
		}
		return 0
	}
	gotErr := json.Unmarshal(kept, &got)
	if (gotErr == nil) != (wantErr == nil) {
		t.Fatalf("pieces of %d: %v, want %v; kept %.300q", piece, gotErr, wantErr, kept)
	}
	if !utf8.Valid(text) {
		if utf8.Valid(kept) && gotErr == nil {
			t.Fatalf("pieces of %d: invalid UTF-8 is not seen", piece)
		}
		return 0
	}
	if wantErr == nil && !reflect.DeepEqual(restore(t, m, got), want) {
		t.Fatalf("pieces of %d: what is read is not what was written", piece)
	}
	return m.Count()
}

const long = spool.Long

// messages returns valid and invalid messages with strings around the limit and with all kinds of escapes, by name.
func messages() map[string]string {
	pad := strings.Repeat("x", long)
	return map[string]string{
		"plain":                    `{"a":"` + pad + `y"}`,
		"at the limit":             `{"a":"` + pad + `"}`,
		"one below":                `{"a":"` + pad[1:] + `"}`,
		"two":                      `{"a":"` + pad + `y","b":["` + pad + `z",1,"` + pad + `"]}`,
		"alone":                    `"` + pad + `y"`,
		"a long name":              `{"` + pad + `y":"` + pad + `z"}`,
		"a token of the client's":  `{"a":"spool:AAAA:0","b":"` + pad + `y"}`,
		"a token in a long string": `{"a":"spool::0` + pad + `"}`,
		"names and values":         `{"a":{"b":"` + pad + `1","c":{"d":["` + pad + `2"]},"e":"f"},"` + pad + `3":"` + pad + `4"}`,
		"escapes":                  `["` + strings.Repeat(`\n\t\"\\\/\b\f\r\u0000\u00e9\uD83D\uDE00é😀`, 2000) + `"]`,
		"backslashes":              `["` + strings.Repeat(`\\`, long) + `","` + strings.Repeat(`\\\"`, long/2) + `"]`,
		"lone surrogates":          `["` + pad + `\uD83D","` + pad + `\uD83Dx","` + pad + `\uDE00\uD83D\uD83D\uDE00\uD83D\u0041\uD83D\n"]`,
		"quotes":                   `["` + strings.Repeat(`\"`, long) + `"]`,
		"a character cut":          `["` + strings.Repeat("é", long) + `","x` + strings.Repeat("😀", long/2) + `"]`,
		"a megabyte of digits":     `[` + strings.Repeat("1", 1<<20) + `]`,
		"deep":                     strings.Repeat("[", 9_000) + `"` + pad + `y"` + strings.Repeat("]", 9_000),
		"too deep":                 strings.Repeat("[", 10_001) + `"` + pad + `y"` + strings.Repeat("]", 10_001),
		"a bad escape":             `["` + pad + `\x"]`,
		"half an escape":           `["` + pad + `\u12"]`,
		"half an escape, pair":     `["` + pad + `\uD83D\u12"]`,
		"no digits":                `["` + pad + `\uZZZZ"]`,
		"a NUL":                    `["` + pad + "\x00" + `"]`,
		"a line end":               `["` + pad + "\n" + `"]`,
		"invalid UTF-8":            `["` + pad + "\xff" + `"]`,
		"a surrogate in UTF-8":     `["` + pad + "\xed\xa0\x80" + `"]`,
		"overlong":                 `["` + pad + "\xc0\x80" + `"]`,
		"a character and an end":   `["` + pad + "\xf0\x9f\x98" + `"]`,
		"a character, an escape":   `["` + pad + "\xf0\x9f" + `\n"]`,
		"no end":                   `{"a":"` + pad + `y`,
		"no end of an escape":      `{"a":"` + pad + `y\`,
		"no end of the object":     `{"a":"` + pad + `y"`,
		"two messages":             `{"a":"` + pad + `y"}{"b":"` + pad + `y"}`,
		"closed too often":         `]}]{"a":"` + pad + `y"}`,
		"no comma":                 `["` + pad + `y""` + pad + `z"]`,
		"a string for a colon":     `{"a""` + pad + `y"}`,
		"nothing":                  ``,
	}
}

// TestRestore checks that a message that is spooled and restored decodes to the same value as with encoding/json, for pieces
// of many sizes, and that invalid JSON stays invalid.
func TestRestore(t *testing.T) {
	f := open(t, 0)
	for name, text := range messages() {
		t.Run(name, func(t *testing.T) {
			for _, piece := range []int{1, 2, 3, 5, 7, 11, 13, 4096, 65535, 65536, 65537, 1 << 30} {
				checkRoundTrip(t, f, spool.Limits{}, []byte(text), piece)
			}
		})
	}
	if f.Used() != 0 {
		t.Errorf("%d bytes are still taken", f.Used())
	}
}

// TestMessageSplitAtEveryPosition checks that a message is read correctly if it is split into two pieces where a string becomes
// long, or inside an escape. It tries every position there.
func TestMessageSplitAtEveryPosition(t *testing.T) {
	f := open(t, 0)
	text := []byte(`{"k":["` + strings.Repeat("x", long-20) + `\\\"é\u00e9\uD83D\uDE00😀\uD83D\n\uDE00\\","` + strings.Repeat("y", long) + `\uD83D"],"z":"\\"}`)
	var cuts []int
	for i := long - 40; i < long+120; i++ {
		cuts = append(cuts, i)
	}
	for i := len(text) - 40; i < len(text); i++ {
		cuts = append(cuts, i)
	}
	for _, cut := range cuts {
		m := f.NewMessage(spool.Limits{})
		m.Write(bytes.Clone(text[:cut]))
		m.Write(bytes.Clone(text[cut:]))
		kept, flaw := m.End()
		if flaw != nil {
			t.Fatalf("cut at %d: %s", cut, flaw.Text)
		}
		var got, want any
		if err := json.Unmarshal(kept, &got); err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		json.Unmarshal(text, &want)
		if !reflect.DeepEqual(restore(t, m, got), want) {
			t.Fatalf("cut at %d: another text", cut)
		}
		m.Close()
	}
}

// TestOnlyLongValuesAreSpooled checks that only long values are stored on disk, and no names of fields.
func TestOnlyLongValuesAreSpooled(t *testing.T) {
	f := open(t, 0)
	for name, want := range map[string]int{"plain": 1, "at the limit": 0, "one below": 0, "two": 2, "a long name": 1, "names and values": 3, "a token of the client's": 1, "deep": 1, "backslashes": 2} {
		if got := checkRoundTrip(t, f, spool.Limits{}, []byte(messages()[name]), 1000); got != want {
			t.Errorf("%s: %d strings on disk, want %d", name, got, want)
		}
	}
}

// TestTokens checks that a placeholder cannot be guessed, and that a placeholder of one message is invalid in another message.
func TestTokens(t *testing.T) {
	f := open(t, 0)
	text := []byte(messages()["plain"])
	a, kept, _ := in(f, spool.Limits{}, text, 1<<30)
	b, other, _ := in(f, spool.Limits{}, text, 1<<30)
	defer a.Close()
	defer b.Close()
	var v struct{ A string }
	json.Unmarshal(kept, &v)
	if _, ok := a.Find(v.A); !ok || !strings.HasPrefix(v.A, "spool:") || len(v.A) < 30 || bytes.Equal(kept, other) {
		t.Errorf("tokens %s and %s", kept, other)
	}
	for _, s := range []string{"", "spool:", "spool:0", "spool::0", v.A + "0", v.A + " ", v.A[:len(v.A)-1], v.A[:len(v.A)-1] + "1", v.A[:len(v.A)-1] + "-0", v.A[:len(v.A)-1] + "00", v.A[:len(v.A)-1] + "+0", " " + v.A, strings.ToLower(v.A)} {
		if _, ok := a.Find(s); ok {
			t.Errorf("%q is a token", s)
		}
	}
	if _, ok := b.Find(v.A); ok {
		t.Error("one message's token is another's")
	}
	if n := a.CountIn(kept); n != 1 {
		t.Errorf("%d tokens, want 1", n)
	}
	a.Close()
	if _, ok := a.Find(v.A); ok {
		t.Error("a closed message has strings")
	}
}

// TestFlawDiscardsTheRestOfTheMessage checks that the rest of a message with a flaw is discarded, and that Head or Tail of the
// flaw still contains the id of the message.
func TestFlawDiscardsTheRestOfTheMessage(t *testing.T) {
	text := func(size int) []byte {
		return []byte(`{"params":{"a":"` + strings.Repeat("x", size) + `"},"id":"seven"}`)
	}
	for _, c := range []struct {
		name     string
		limits   spool.Limits
		maximum  int64
		text     []byte
		kind     spool.FlawKind
		wantText string
	}{
		{"a long message", spool.Limits{Message: 1 << 20}, 0, text(2 << 20), spool.TooLong, "longer than 1 MiB, the limit of one message"},
		{"a long string", spool.Limits{String: 1 << 20}, 0, text(2 << 20), spool.TooLong, "longer than 1 MiB, the limit of one string"},
		{"much besides", spool.Limits{Kept: 1 << 20}, 0, []byte(`{"params":[` + strings.Repeat(`"y",`, 1<<19) + `"x"],"id":"seven"}`), spool.TooLong, "more than 1 MiB besides"},
		{"a long name", spool.Limits{Kept: 1 << 20}, 0, []byte(`{"` + strings.Repeat(`y`, 1<<21) + `":1,"id":"seven"}`), spool.TooLong, "more than 1 MiB besides"},
		{"no room", spool.Limits{}, 1 << 20, text(2 << 20), spool.Busy, "try again"},
		{"not UTF-8", spool.Limits{}, 0, bytes.Replace(text(2<<20), []byte("xxx"), []byte("x\xffx"), 1), spool.Malformed, "not valid UTF-8"},
		{"a bad escape", spool.Limits{}, 0, bytes.Replace(text(2<<20), []byte("xxx"), []byte(`x\x`), 1), spool.Malformed, "escape"},
		{"a control character", spool.Limits{}, 0, bytes.Replace(text(2<<20), []byte("xxx"), []byte("x\x01x"), 1), spool.Malformed, "control"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := open(t, c.maximum)
			for _, piece := range []int{1000, 1 << 16, 1 << 30} {
				m, _, flaw := in(f, c.limits, c.text, piece)
				if flaw == nil || flaw.Kind != c.kind || !strings.Contains(flaw.Text, c.wantText) {
					t.Fatalf("flaw %+v, want %q", flaw, c.wantText)
				}
				if left := append(bytes.Clone(flaw.Head), flaw.Tail...); !bytes.HasSuffix(left, []byte(`"id":"seven"}`)) || len(left) > 10_000 {
					t.Errorf("left are %d bytes, with the end %q", len(left), left[max(0, len(left)-40):])
				}
				if f.Used() != 0 {
					t.Errorf("%d bytes are taken before the message is closed", f.Used())
				}
				m.Close()
			}
		})
	}
}

// TestLimits checks the limits of a string and of a message with n and n+1 bytes.
func TestLimits(t *testing.T) {
	f := open(t, 0)
	for _, n := range []int{100_000, 100_001} {
		text := []byte(`["` + strings.Repeat("x", n) + `"]`)
		for _, l := range []spool.Limits{{String: 100_000}, {Message: 100_004}} {
			m, _, flaw := in(f, l, text, 5000)
			if (flaw != nil) != (n > 100_000) {
				t.Errorf("%+v: %d bytes: %v", l, n, flaw)
			}
			m.Close()
		}
	}
}

// TestFiles checks that only this user can access the folder, that the files in it have no name, and that closing a message
// frees its space.
func TestFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	f, err := spool.Open(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "dormouse-1234"), []byte("of a process that died"), 0o600); err != nil {
		t.Fatal(err)
	}
	m, _, _ := in(f, spool.Limits{}, []byte(messages()["two"]), 1<<30)
	if info, _ := os.Stat(dir); runtime.GOOS != "windows" && info.Mode().Perm() != 0o700 {
		t.Errorf("the folder's mode is %o", info.Mode().Perm())
	}
	if f.Used() == 0 {
		t.Error("nothing is taken")
	}
	if _, err := spool.Open(dir, 0); err != nil { // another process that starts now opens the same folder
		t.Fatal(err)
	}
	if names, _ := filepath.Glob(filepath.Join(dir, "*")); runtime.GOOS != "windows" && len(names) > 0 {
		t.Errorf("in the folder are %v", names)
	}
	m.Close()
	m.Close()
	if f.Used() != 0 {
		t.Errorf("%d bytes are taken after the end", f.Used())
	}
}

// TestStringsStayInMemoryWithoutAFolder checks that all strings of a message stay in memory if there is no folder.
func TestStringsStayInMemoryWithoutAFolder(t *testing.T) {
	var f *spool.Folder
	text := []byte(messages()["names and values"])
	m, kept, flaw := in(f, spool.Limits{}, text, 1000)
	if flaw != nil || !bytes.Equal(kept, text) || m.Count() != 0 || f.NewOutbox() != nil {
		t.Errorf("%v, %d strings", flaw, m.Count())
	}
	m.Close()
}

// TestDiskErrorIsReturnedWithoutThePath checks that a disk error is returned, without the path in the text for the client.
func TestDiskErrorIsReturnedWithoutThePath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	f, _ := spool.Open(dir, 0)
	os.RemoveAll(dir)
	m, _, flaw := in(f, spool.Limits{}, []byte(messages()["plain"]), 1000)
	defer m.Close()
	if flaw == nil || flaw.Kind != spool.Failed || strings.Contains(flaw.Text, dir) || flaw.Cause == nil {
		t.Errorf("flaw %+v", flaw)
	}
	box := f.NewOutbox()
	defer box.Close()
	if _, _, err := box.Base64(strings.NewReader("x")); !errors.Is(err, spool.ErrDisk) {
		t.Errorf("outbox: %v", err)
	}
}

// TestOutbox checks that Send writes the base64 of a file in place of its placeholder.
func TestOutbox(t *testing.T) {
	f := open(t, 0)
	box := f.NewOutbox()
	defer box.Close()
	var out bytes.Buffer
	if err := box.Send(&out, []byte("as it is")); err != nil || out.String() != "as it is" {
		t.Fatalf("%q, %v", out.String(), err)
	}
	var answer, want string
	for _, size := range []int{0, 1, 2, 3, 1000, 256<<10 - 1, 256 << 10, 1<<20 + 1} {
		data := bytes.Repeat([]byte{0, 255, 7}, size/3+1)[:size]
		token, n, err := box.Base64(iotest.HalfReader(bytes.NewReader(data)))
		if err != nil || n != int64(size) {
			t.Fatalf("%d: %d, %v", size, n, err)
		}
		answer += fmt.Sprintf(`"%s",`, token)
		want += fmt.Sprintf(`"%s",`, base64.StdEncoding.EncodeToString(data))
	}
	out.Reset()
	for _, part := range []string{answer, "spool:AAAA:0", answer} {
		if err := box.Send(&out, []byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	if out.String() != want+"spool:AAAA:0"+want {
		t.Error("another text")
	}
	if err := box.Send(&out, []byte(answer[1:len(answer)-3]+"99")); err == nil {
		t.Error("a token that is none is written")
	}
	broken := errors.New("broken")
	if _, _, err := box.Base64(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("a broken file: %v", err)
	}
	box.Close()
	if f.Used() != 0 {
		t.Errorf("%d bytes are taken after the end", f.Used())
	}
	small := open(t, 1<<20).NewOutbox()
	defer small.Close()
	if _, _, err := small.Base64(bytes.NewReader(make([]byte, 2<<20))); !errors.Is(err, spool.ErrBusy) {
		t.Errorf("no room: %v", err)
	}
}

// FuzzRestore checks that a message that is spooled and restored decodes as with encoding/json, for pieces of different sizes
// and for different values of Limits.Long.
func FuzzRestore(f *testing.F) {
	for _, s := range []string{
		`{"a":"plain text"}`, `["a\n\t\"\\\/b"]`, `["\u00e9\uD83D\uDE00é😀"]`, `["\uD83D","\uDE00","\uD83D\u0041"]`, `{"a long name":{"b":["c",{"d":"e"}]}}`,
		"[\"\xff\"]", "[\"\x00\"]", `["\x"]`, `["\u12"]`, `["no end`, `{"a":"b"}{"c":"d"}`, `{"a""b"}`, `]}["a"`, `["\\"]`, `["\\\""]`, `"spool:AAAA:0"`, `[1e999,"a"]`, `[[[[""]]]]`,
	} {
		f.Add([]byte(s), uint8(3), uint8(2))
	}
	folder := open(f, 0)
	f.Fuzz(func(t *testing.T, text []byte, piece, long uint8) {
		for _, p := range []int{1, max(1, int(piece)), 1 << 16} {
			checkRoundTrip(t, folder, spool.Limits{Long: max(1, int64(long))}, text, p)
		}
	})
}

func BenchmarkMessage(b *testing.B) {
	f := open(b, 0)
	for name, s := range map[string]string{
		"base64":  strings.Repeat("QUJDREVGR0hJSktM", 1<<22),
		"text":    strings.Repeat(`a line of forty bytes, and its end: \n`, 1<<21),
		"Chinese": strings.Repeat("漢字", 1<<23),
		"escapes": strings.Repeat(`\u00e9`, 1<<23),
	} {
		text := []byte(`{"a":"` + s + `"}`)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				m := f.NewMessage(spool.Limits{})
				for p := text; len(p) > 0; p = p[min(len(p), 64<<10):] {
					m.Write(p[:min(len(p), 64<<10)])
				}
				if _, flaw := m.End(); flaw != nil {
					b.Fatal(flaw.Text)
				}
				m.Close()
			}
		})
	}
}
