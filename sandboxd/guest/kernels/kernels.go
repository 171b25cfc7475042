// Package kernels contains the kernel programs: the interpreters that run an agent's code and keep its variables.
// They are not written in Go; this package embeds their files and defines how each program is started. Packages
// bundle and supervisor use it.
//
//   - [Files] contains the programs, one folder for each language. They are unpacked read-only.
//   - [Languages] lists the interpreters that can run each program, and their arguments.
//
// docs/kernel-protocol.md describes the messages between a kernel and the guest. To add a language, add a folder with
// a program that implements this protocol, name its files in the go:embed line and add an entry to [Languages].
// ARCHITECTURE.md lists the other places to change.
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
	Name         string                                    // name of the language and of its folder in Files
	Program      string                                    // the program to start, a path in Files
	Interpreters []string                                  // names to look up in PATH; the first one found runs the program
	LimitMemory  bool                                      // the guest limits the kernel's private memory; an allocation beyond the limit must raise an error that the kernel survives
	flags        func(root string, memoryMiB int) []string // returns the interpreter's flags; for the parameters, see Argv
}

// Languages lists the kernels. Their names are those in the list Languages of package sandbox.
var Languages = []Language{
	{
		Name:         "python",
		Program:      "python/kernel.py",
		Interpreters: []string{"python3", "python"},
		LimitMemory:  true,
		flags: func(string, int) []string {
			// -u: unbuffered output. -B: no .pyc files, because the kernel's folder is read-only and the user's
			// folders should not get files that the user did not create. -s: no user site packages, because their
			// code would run before the kernel's. The kernel adds them later.
			return []string{"-u", "-B", "-s"}
		},
	},
	{
		Name:         "javascript",
		Program:      "javascript/kernel.cjs",
		Interpreters: []string{"node", "nodejs"},
		flags: func(root string, memoryMiB int) []string {
			flags := []string{
				"--require=" + path.Join(root, "javascript/randomness.cjs"), // loaded in the main thread and in each worker
				"--expose-internals",            // gives the kernel the parser that Node's own REPL uses
				"--no-force-async-hooks-checks", // needed because a script that SIGINT ends leaves the hooks' stack inconsistent
			}
			if memoryMiB > 0 {
				flags = append(flags, fmt.Sprintf("--max-old-space-size=%d", memoryMiB))
			}
			return flags
		},
	},
}

// Argv returns the command that starts the kernel with this interpreter. root is the folder to which [Files] was
// unpacked. memoryMiB limits the heap of an interpreter that needs such a limit; 0 leaves the limit to the
// interpreter.
func (l Language) Argv(interpreter, root string, memoryMiB int) []string {
	argv := append([]string{interpreter}, l.flags(root, memoryMiB)...)
	return append(argv, path.Join(root, l.Program))
}
