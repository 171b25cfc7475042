// Mcpb makes MCP bundles, one for each platform: `make mcpb`. A bundle is a zip of a
// manifest, the dormouse binary and its icon, which Claude Desktop and others install
// with a double click.
package main

import (
	"archive/zip"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: mcpb VERSION OS/ARCH…")
		os.Exit(2)
	}
	for _, platform := range os.Args[2:] {
		goos, arch, _ := strings.Cut(platform, "/")
		out := filepath.Join("bin", "dormouse-"+goos+"-"+arch+".mcpb")
		if err := bundle(out, os.Args[1], goos, arch); err != nil {
			fmt.Fprintln(os.Stderr, "mcpb:", err)
			os.Exit(1)
		}
		fmt.Println("build", out)
	}
}

func bundle(out, version, goos, arch string) error {
	temp, err := os.MkdirTemp("", "mcpb")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	name := "dormouse"
	if goos == "windows" {
		name += ".exe"
	}
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version="+version, "-o", filepath.Join(temp, name), ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+goos, "GOARCH="+arch)
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build for %s/%s: %w", goos, arch, err)
	}
	manifest, err := manifest(version, goos, name)
	if err != nil {
		return err
	}
	binary, err := os.ReadFile(filepath.Join(temp, name))
	if err != nil {
		return err
	}
	icon, err := os.ReadFile("packaging/icon.png")
	if err != nil {
		return err
	}
	return write(out, []file{{"manifest.json", 0o644, manifest}, {"icon.png", 0o644, icon}, {"server/" + name, 0o755, binary}})
}

// semver is what a manifest must have for a version; a commit without a tag has none.
var semver = regexp.MustCompile(`^v?(\d+\.\d+\.\d+.*)$`)

// manifest says how the bundle is started and what tools it has, as
// tools/testdata/tools.golden.json says it.
func manifest(version, goos, name string) ([]byte, error) {
	golden, err := os.ReadFile("tools/testdata/tools.golden.json")
	if err != nil {
		return nil, err
	}
	var tools []struct {
		Name        string `json:"name"`
		Description string `json:"description"`
	}
	if err := json.Unmarshal(golden, &tools); err != nil {
		return nil, fmt.Errorf("read the tools: %w", err)
	}
	if m := semver.FindStringSubmatch(version); m != nil {
		version = m[1]
	} else {
		version = "0.0.0-" + version
	}
	type object = map[string]any
	return json.MarshalIndent(object{
		"manifest_version": "0.3",
		"name":             "dormouse",
		"display_name":     "Dormouse",
		"version":          version,
		"description":      "Sandboxes without network, on your own machine, in which an agent runs Python and JavaScript and keeps its variables. Needs Docker.",
		"author":           object{"name": "Dormouse"},
		"license":          "Apache-2.0",
		"icon":             "icon.png",
		"keywords":         []string{"sandbox", "code execution", "python", "javascript"},
		"server": object{
			"type":        "binary",
			"entry_point": "server/" + name,
			"mcp_config":  object{"command": "${__dirname}/server/" + name, "args": []string{"mcp"}},
		},
		"tools":         tools,
		"compatibility": object{"platforms": []string{strings.Replace(goos, "windows", "win32", 1)}},
	}, "", "  ")
}

type file struct {
	name string
	mode os.FileMode
	data []byte
}

func write(out string, files []file) error {
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer f.Close() // again, where Close below was not reached
	z := zip.NewWriter(f)
	for _, file := range files {
		h := &zip.FileHeader{Name: file.name, Method: zip.Deflate}
		h.SetMode(file.mode)
		w, err := z.CreateHeader(h)
		if err != nil {
			return err
		}
		if _, err := w.Write(file.data); err != nil {
			return err
		}
	}
	if err := z.Close(); err != nil {
		return err
	}
	return f.Close()
}
