// Command patch builds runsc from gVisor's Go module, with the patches in patches.go.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

const gvisor = "gvisor.dev/gvisor"

func main() {
	if err := build(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "build runsc:", err)
		os.Exit(1)
	}
}

// build builds runsc from the module in the working directory, with a patched copy of gVisor's module in place of the
// original. It writes the result to the file program.
func build(program string) error {
	// The folder has a fixed name, because its path becomes a part of the program. With a random name, each build
	// would be different.
	const dir = "./patched"
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	module, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", gvisor).Output()
	if err != nil {
		return fmt.Errorf("find gVisor's module: %w", err)
	}
	copied := dir + "/gvisor"
	if err := os.CopyFS(copied, os.DirFS(string(bytes.TrimSpace(module)))); err != nil {
		return err
	}
	for _, p := range patches {
		if err := p.apply(copied); err != nil {
			return err
		}
	}
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		return err
	}
	sum, err := os.ReadFile("go.sum")
	if err != nil {
		return err
	}
	modfile := filepath.Join(dir, "go.mod")
	mod = fmt.Appendf(mod, "\nreplace %s => %s\n", gvisor, copied)
	if err := errors.Join(os.WriteFile(modfile, mod, 0o644), os.WriteFile(filepath.Join(dir, "go.sum"), sum, 0o644)); err != nil {
		return err
	}
	cmd := exec.Command("go", "build", "-modfile", modfile, "-trimpath", "-ldflags", "-s -w", "-o", program, ".")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}
