package tools_test

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools"
	"github.com/dormouse-sandbox/dormouse/tools/toolstest"
)

// write sends one file to a sandbox of a new fake daemon. It returns the answer, and the content of the file "f" in the
// sandbox afterwards.
func write(t *testing.T, c tools.Config, file args) (text string, isError bool, arrived []byte) {
	t.Helper()
	d := newDouble()
	list := tools.New(d, c)
	call(t, list, "create_sandbox", args{"display_name": "box"})
	r := call(t, list, "write_files", args{"sandbox_id": "box", "files": []args{file}})
	return toolstest.Text(t, r), r.IsError, d.contents[letterID("sbx_", 0)+"/f"]
}

// TestBase64 checks that write_files accepts all common variants of base64 and rejects other text.
func TestBase64(t *testing.T) {
	for _, want := range []string{"", "a", "ab", "abc", "\xfb\xff\xfe", strings.Repeat("\x00\xff\xfb", 70_000)} {
		std, url := base64.StdEncoding.EncodeToString([]byte(want)), base64.URLEncoding.EncodeToString([]byte(want))
		for _, s := range []string{std, url, strings.TrimRight(std, "="), strings.TrimRight(url, "="), "data:text/plain;charset=utf-8;base64," + std, lined(std, 76), lined(std, 61), lined(url, 1), " " + std + "\n"} {
			if text, isError, got := write(t, tools.Config{}, args{"path": "f", "base64": s}); isError || string(got) != want {
				t.Errorf("base64 %.40q: got %d bytes, want %d: %s", s, len(got), len(want), text)
			}
		}
	}
	for s, wantWords := range map[string]string{
		"abc$":                "the character '$' at position 3",
		"ab=c":                "goes on after its padding",
		"abcde":               "is cut off",
		"data:text/plain,abc": "data: URI that is not base64",
	} {
		if text, isError, _ := write(t, tools.Config{}, args{"path": "f", "base64": s}); !isError || !strings.Contains(text, wantWords) {
			t.Errorf("base64 %q: %s; want %q", s, text, wantWords)
		}
	}
}

func lined(s string, width int) string {
	var b strings.Builder
	for i := 0; i < len(s); i += width {
		b.WriteString(s[i:min(i+width, len(s))] + "\r\n")
	}
	return b.String()
}

func TestOneSourceForEachFile(t *testing.T) {
	for _, c := range []struct {
		file      args
		wantWords string // part of the error; empty: the file is accepted
	}{
		{args{"path": "f", "text": "x"}, ""},
		{args{"path": "/workspace/f", "text": "x"}, ""},
		{args{"path": "f", "text": ""}, ""},
		{args{"path": "f", "text": "x", "base64": "", "local_path": ""}, ""},
		{args{"path": "f", "text": "x", "base64": nil}, ""},
		{args{"path": "f"}, "has no content"},
		{args{"path": "f", "local_path": ""}, "has no content"},
		{args{"path": "f", "text": "x", "base64": "eA=="}, "text and base64: give exactly one"},
		{args{"path": "f", "content": "x"}, `did you mean "text"`},
		{args{"name": "f", "text": "x"}, `did you mean "path"`},
		{args{"filename": "f", "base64": ""}, `did you mean "path"`},
		{args{"path": "/workspace", "text": "x"}, "names the workspace itself"},
		{args{"path": "f", "text": args{"a": 1}}, "text must be a string, and is an object"},
		{args{"text": "x"}, "path is empty"},
		{args{"path": "../f", "text": "x"}, `has a ".."`},
		{args{"path": "/etc/passwd", "text": "x"}, "outside /workspace"},
		{args{"path": strings.Repeat("x", 300), "text": "x"}, "300 bytes"},
		{args{"path": "a\nb", "text": "x"}, "control character"},
	} {
		text, isError, _ := write(t, tools.Config{}, c.file)
		if isError != (c.wantWords != "") || !strings.Contains(text, c.wantWords) {
			t.Errorf("%v: %s; want %q", c.file, text, c.wantWords)
		}
	}
}

func TestFileLimits(t *testing.T) {
	list := tools.New(newDouble(), tools.Config{})
	call(t, list, "create_sandbox", args{"display_name": "box"})
	for _, n := range []int{sandbox.MaxFiles - 1, sandbox.MaxFiles, sandbox.MaxFiles + 1} {
		var files []args
		for i := range n {
			files = append(files, args{"path": strings.Repeat("d/", i%7) + string(rune('a'+i%26)) + strings.Repeat("x", i), "text": "x"})
		}
		r := call(t, list, "write_files", args{"sandbox_id": "box", "files": files})
		if r.IsError != (n > sandbox.MaxFiles) {
			t.Errorf("%d files: %s", n, toolstest.Text(t, r))
		}
	}
	twice := []args{{"path": "a", "text": "1"}, {"path": "./a", "text": "2"}}
	toolstest.WantText(t, call(t, list, "write_files", args{"sandbox_id": "box", "files": twice}), true, "in the list twice")
}

// TestLocalPath checks that local_path accepts only files below the allowed folders, even if the path contains dots or
// links.
func TestLocalPath(t *testing.T) {
	allowed, outside := t.TempDir(), t.TempDir()
	for path, content := range map[string]string{filepath.Join(allowed, "in.csv"): "inside", filepath.Join(outside, "secret"): "outside"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(allowed, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	links := map[string]string{"good": "in.csv", "absolute": filepath.Join(allowed, "in.csv"), "evil": filepath.Join(outside, "secret"), "evil-dir": outside, "dotdot": "../" + filepath.Base(outside) + "/secret"}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(allowed, name)); err != nil {
			t.Skipf("no symbolic links here: %v", err)
		}
	}
	through := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(allowed, through); err != nil {
		t.Fatal(err)
	}
	config := tools.Config{AllowDirs: []string{allowed}}
	for _, c := range []struct {
		name      string
		config    tools.Config
		path      string
		wantWords string // part of the error; empty: the file is sent
	}{
		{"a file", config, filepath.Join(allowed, "in.csv"), ""},
		{"with dots", config, filepath.Join(allowed, "dir") + "/../in.csv", ""},
		{"a link inside", config, filepath.Join(allowed, "good"), ""},
		{"an absolute link inside", config, filepath.Join(allowed, "absolute"), ""},
		{"a folder that is a link", tools.Config{AllowDirs: []string{through}}, filepath.Join(through, "in.csv"), ""},
		{"nothing is allowed", tools.Config{}, filepath.Join(allowed, "in.csv"), "--allow-dir"},
		{"outside", config, filepath.Join(outside, "secret"), "not below a folder that the user allowed"},
		{"outside and not there", config, filepath.Join(outside, "nothing"), "not below a folder that the user allowed"},
		{"out by dots", config, allowed + "/../" + filepath.Base(outside) + "/secret", "not below"},
		{"out by a link", config, filepath.Join(allowed, "evil"), "leads out of the folder"},
		{"out by a relative link", config, filepath.Join(allowed, "dotdot"), "leads out of the folder"},
		{"out by a linked folder", config, filepath.Join(allowed, "evil-dir", "secret"), "leads out of the folder"},
		{"a name that begins the same", config, allowed + "2/in.csv", "not below"},
		{"a folder", config, filepath.Join(allowed, "dir"), "is a folder"},
		{"the folder itself", config, allowed, "not below"},
		{"not there", config, filepath.Join(allowed, "nothing"), "does not exist"},
		{"relative", config, "in.csv", "is not absolute"},
		{"home", config, "~/in.csv", "is not absolute"},
		{"the folder is gone", tools.Config{AllowDirs: []string{allowed + "-gone"}}, allowed + "-gone/x", "not below"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text, isError, got := write(t, c.config, args{"path": "f", "local_path": c.path})
			if isError != (c.wantWords != "") || !strings.Contains(text, c.wantWords) {
				t.Errorf("%s; want %q", text, c.wantWords)
			}
			if c.wantWords == "" && string(got) != "inside" {
				t.Errorf("got %q, want the file's content", got)
			}
		})
	}
}

// TestLocalPathDevice checks that a device is rejected. Reading /dev/zero would never end.
func TestLocalPathDevice(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no /dev/zero here")
	}
	text, isError, _ := write(t, tools.Config{AllowDirs: []string{"/dev"}}, args{"path": "f", "local_path": "/dev/zero"})
	if !isError || !strings.Contains(text, "not a regular file") {
		t.Errorf("%s", text)
	}
}

func TestWriteFilesAnswer(t *testing.T) {
	list := tools.New(newDouble(), tools.Config{})
	call(t, list, "create_sandbox", args{"display_name": "box"})
	r := call(t, list, "write_files", args{"sandbox_id": "box", "files": []args{{"path": "a.txt", "text": "abc"}}})
	toolstest.WantText(t, r, false, "1 file written", `"path":"a.txt"`, `"size":3`, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
}
