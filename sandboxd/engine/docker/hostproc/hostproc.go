// Package hostproc identifies processes of this machine that belong to a Docker engine: by name, by parent, and by whose
// files they see. A pid can belong to another process a moment later, so [Process] checks that it is still the same one.
// Packages directexec and copies use it. It works on Linux only.
package hostproc
