// Mcpb makes the files of a release: one MCP bundle for each platform, and server.json, Dormouse's entry in the MCP
// registry. `make mcpb` runs it. A bundle is a zip file with a manifest, the dormouse binary and an icon. Claude Desktop
// and other clients install a bundle with a double click. describe.go makes the manifest and server.json.
package main

import (
	"archive/zip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: mcpb VERSION OS/ARCH…")
		os.Exit(2)
	}
	if err := release(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "mcpb:", err)
		os.Exit(1)
	}
}

// release makes the bundles of a version, and bin/server.json with the bundles' SHA-256 sums.
func release(version string, platforms []string) error {
	var bundles []madeBundle
	for _, platform := range platforms {
		goos, arch, _ := strings.Cut(platform, "/")
		b := madeBundle{file: "dormouse-" + goos + "-" + arch + ".mcpb"}
		out := filepath.Join("bin", b.file)
		if err := bundle(out, version, goos, arch); err != nil {
			return err
		}
		content, err := os.ReadFile(out)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(content)
		b.sha256 = hex.EncodeToString(sum[:])
		bundles = append(bundles, b)
		fmt.Println("build", out)
	}
	text, err := registryEntry(version, bundles)
	if err != nil {
		return err
	}
	out := filepath.Join("bin", "server.json")
	if err := os.WriteFile(out, text, 0o644); err != nil {
		return err
	}
	fmt.Println("build", out)
	return nil
}

func bundle(out, version, goos, arch string) error {
	temp, err := os.MkdirTemp("", "mcpb")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	binary := filepath.Join(temp, "dormouse")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version="+version, "-o", binary, "./cmd/dormouse")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+goos, "GOARCH="+arch)
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build for %s/%s: %w", goos, arch, err)
	}
	golden, err := os.ReadFile("tools/testdata/tools.golden.json")
	if err != nil {
		return err
	}
	manifest, err := manifest(version, goos, golden)
	if err != nil {
		return err
	}
	program, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	icon, err := os.ReadFile("packaging/icon.png")
	if err != nil {
		return err
	}
	return write(out, []file{{"manifest.json", 0o644, manifest}, {"icon.png", 0o644, icon}, {entryPoint(goos), 0o755, program}})
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
	defer f.Close() // closes f if an error occurs before the Close at the end; a second Close has no effect
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
