//go:build linux

package checkpoint

import (
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// startWriteback writes a growing file to disk in the background until stop is called, so that syncing the file at the
// end takes less time. It does not guarantee that any data is on disk. The caller must call stop, which waits for the
// goroutine to end.
func startWriteback(path string) (stop func()) {
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ended:
				return
			}
			if file, err := os.Open(path); err == nil {
				_ = unix.SyncFileRange(int(file.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
				_ = file.Close()
			}
		}
	}()
	return func() { close(ended); <-done }
}

// allocated returns how many bytes a file takes on disk.
func allocated(info fs.FileInfo) int64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Blocks * 512
	}
	return info.Size()
}
