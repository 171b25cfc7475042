// Package hostproc identifies processes of this machine that belong to a Docker engine: by name, by parent, and by
// whether they see the same files as this process. A pid can belong to another process a moment later, so a [Process]
// can check that its process still exists. Packages directexec and copies use it. It works on Linux only.
package hostproc
