package gvisor_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/bundle"
)

// TestFilterIsCompiledAhead checks that runsc finds the seccomp filter for gVisor's own processes that was compiled
// when runsc was built. runsc looks for a compiled filter with the options that follow from the engine's flags. If there
// is none, runsc compiles a filter at each start, which is slow.
func TestFilterIsCompiledAhead(t *testing.T) {
	e, s, dir := open(t, tempDir(t), bundle.Bundle{}), spec(anyImage(t)), tempDir(t)
	create(t, e, s)
	var config map[string]any
	text, err := os.ReadFile(e.ConfigFile(s.ID))
	if err == nil {
		err = json.Unmarshal(text, &config)
	}
	if err != nil {
		t.Fatal(err)
	}
	config["process"].(map[string]any)["args"] = []string{"true"}
	delete(config["linux"].(map[string]any), "cgroupsPath")
	if text, err = json.Marshal(config); err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := e.Command("--ignore-cgroups", "--debug-log="+dir+"/log/", "run", "--bundle="+dir, "filter-test").CombinedOutput(); err != nil {
		t.Fatalf("runsc run: %v: %s", err, out)
	}
	logs, _ := filepath.Glob(dir + "/log/*boot*")
	if len(logs) != 1 {
		t.Fatalf("logs of the sandbox: %q", logs)
	}
	if text, err = os.ReadFile(logs[0]); err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(text, []byte("precompiled seccomp program rendered")) || bytes.Contains(text, []byte("No precompiled program")) {
		t.Errorf("it compiled a filter: %s", text)
	}
}
