package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestGolden compares the manifests and server.json, which people read before they install Dormouse, with golden files.
// DORMOUSE_UPDATE_GOLDEN=1 rewrites the golden files. e2e/packaging/run validates the golden files with the official tools,
// and e2e/packaging_test.go compares them with the other ways to install Dormouse.
func TestGolden(t *testing.T) {
	tools, err := os.ReadFile("../../tools/testdata/tools.golden.json")
	if err != nil {
		t.Fatal(err)
	}
	for file, make := range map[string]func() ([]byte, error){
		"manifest-darwin.golden.json":  func() ([]byte, error) { return manifest("v1.2.3", "darwin", tools) },
		"manifest-windows.golden.json": func() ([]byte, error) { return manifest("v1.2.3", "windows", tools) },
		"server.golden.json": func() ([]byte, error) {
			return registryEntry("v1.2.3", []madeBundle{{"dormouse-darwin-arm64.mcpb", strings.Repeat("a", 64)}, {"dormouse-windows-amd64.mcpb", strings.Repeat("b", 64)}})
		},
	} {
		got, err := make()
		if err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", file)
		if os.Getenv("DORMOUSE_UPDATE_GOLDEN") != "" {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatalf("no golden file: %v; DORMOUSE_UPDATE_GOLDEN=1 writes it", err)
		}
		if string(got) != string(want) {
			t.Errorf("%s is not as made now:\n%s", golden, got)
		}
	}
}

// TestSemantic checks that semantic always returns a semantic version, which manifests and the registry need. The version
// of a build without a tag is the hash of a commit.
func TestSemantic(t *testing.T) {
	for version, want := range map[string]string{"v1.2.3": "1.2.3", "1.2.3": "1.2.3", "v1.2.3-4-gabc-dirty": "1.2.3-4-gabc-dirty", "abc1234": "0.0.0-abc1234", "unknown": "0.0.0-unknown"} {
		if got := semantic(version); got != want {
			t.Errorf("semantic(%q) = %q, want %q", version, got, want)
		}
	}
}
