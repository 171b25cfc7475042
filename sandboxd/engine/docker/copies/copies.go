// Package copies removes the copies of sandboxes' memory that containerd leaves behind. Package docker uses it.
//
// containerd unpacks a checkpoint into a temporary folder before the runtime restores it, and never removes that folder
// (tested with containerd 1.6; for 2.x, read in its source code). If containerd is killed while it saves a checkpoint, it
// leaves a folder with a similar name. Each of these folders contains the memory of a sandbox. Without this package, each
// resume would leave another copy, as large as the checkpoint (measured: 154 MB for two kernels with 100 MB of data), and
// the memory of a deleted sandbox would stay on disk.
//
// The header that gVisor writes at the start of a checkpoint contains the configuration of the saved container, and so
// the container's id. [Remove] compares this id before it removes a folder. Older versions of gVisor write no id; for
// them, Remove asks its caller whether the files are a copy. [Places] returns the folders to look in. If
// this process can't remove copies, Places returns the reason, and the engine suspends no sandbox to disk.
package copies
