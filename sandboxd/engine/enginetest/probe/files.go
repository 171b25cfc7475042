//go:build linux

package main

import (
	"net/http"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// files is what this sandbox holds on files that others may have, too.
var files struct {
	mu     sync.Mutex
	notify int // 0: nothing is watched
	locked []*os.File
}

// watch notes what is done to the files and folders that are named.
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

// watched says whether something was done to them.
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

// lock locks files for as long as the sandbox lives, with both kinds of locks.
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
			answerOutput(w, []byte(path+": "+brief(err)), nil)
			return
		}
	}
	answerOutput(w, []byte("locked"), nil)
}
