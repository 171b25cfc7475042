// Package kernels holds the kernel programs: the interpreters that run an agent's code and keep its variables. They are not
// Go; this package carries their files to where the guest can start them, and knows how each is started.
//
//   - [Files] holds the programs, one folder for each language, to be unpacked read-only.
//   - [Languages] says which interpreters can run each, and with what arguments.
//
// What a kernel and the guest say to each other is in docs/kernel-protocol.md. To add a language, add a folder with a program
// that speaks it, name its files in the go:embed line and add an entry to [Languages].
package kernels

import (
	"embed"
	"fmt"
	"path"
)

// Files holds each kernel's program in a folder named after its language.
//
//go:embed python/*.py python/dormouse_kernel/*.py javascript/*.cjs javascript/*.node
var Files embed.FS

// A Language is a kind of kernel.
type Language struct {
	Name         string   // also its folder in Files
	Program      string   // the file to start, a path in Files
	Interpreters []string // names to look up in PATH; the first one found runs the program
	flags        func(root string, memoryMiB int) []string
}

// Languages is every language that there is a kernel for.
var Languages = []Language{
	{
		Name:         "python",
		Program:      "python/kernel.py",
		Interpreters: []string{"python3", "python"},
		flags: func(string, int) []string {
			// -u: unbuffered. -B: no .pyc files, because the kernel's folder is read-only, and the user's should stay as they made it.
			// -s: no user site packages, because their code would run before the kernel's. The kernel adds them later.
			return []string{"-u", "-B", "-s"}
		},
	},
	{
		Name:         "javascript",
		Program:      "javascript/kernel.cjs",
		Interpreters: []string{"node", "nodejs"},
		flags: func(root string, memoryMiB int) []string {
			flags := []string{
				"--require=" + path.Join(root, "javascript/randomness.cjs"), // in the main thread and in each worker
				"--expose-internals",            // for the parser that Node's own REPL uses
				"--no-force-async-hooks-checks", // a script that SIGINT ends leaves the hooks' stack as it is
			}
			if memoryMiB > 0 {
				flags = append(flags, fmt.Sprintf("--max-old-space-size=%d", memoryMiB))
			}
			return flags
		},
	},
}

// Argv returns the command that starts the kernel with an interpreter that was found for it, the contents of [Files] being
// unpacked at root. memoryMiB is how large an interpreter that wants to know may let its heap grow; 0 leaves that to it.
func (l Language) Argv(interpreter, root string, memoryMiB int) []string {
	argv := append([]string{interpreter}, l.flags(root, memoryMiB)...)
	return append(argv, path.Join(root, l.Program))
}
