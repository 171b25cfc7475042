//go:build linux

package main

import (
	"net/http"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// files contains this sandbox's watch and locks of files that other sandboxes may share.
var files struct {
	mu     sync.Mutex
	notify int // the inotify descriptor, or 0 if nothing is watched
	locked []*os.File
}

// watch starts to watch the files and folders that the request's query names.
func watch(w http.ResponseWriter, r *http.Request) {
	files.mu.Lock()
	defer files.mu.Unlock()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	for _, path := range r.URL.Query()["path"] {
		if err == nil {
			_, err = unix.InotifyAddWatch(fd, path, unix.IN_ALL_EVENTS)
		}
	}
	files.notify = fd
	answerOutput(w, []byte("watching"), err)
}

// watched reports whether the watched files were used since the last call.
func watched(w http.ResponseWriter, r *http.Request) {
	files.mu.Lock()
	defer files.mu.Unlock()
	n, err := unix.Read(files.notify, make([]byte, 4096))
	switch {
	case err == unix.EAGAIN:
		answerOutput(w, []byte("nothing"), nil)
	case err == nil && n > 0:
		answerOutput(w, []byte("something"), nil)
	default:
		answerOutput(w, nil, err)
	}
}

// lock locks the files that the request's query names until the sandbox ends.
func lock(w http.ResponseWriter, r *http.Request) {
	files.mu.Lock()
	defer files.mu.Unlock()
	for _, path := range r.URL.Query()["path"] {
		file, err := os.Open(path)
		if err == nil {
			files.locked = append(files.locked, file)
			err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		}
		if err != nil {
			answerOutput(w, []byte(path+": "+errnoName(err)), nil)
			return
		}
	}
	answerOutput(w, []byte("locked"), nil)
}
