package home

import (
	"io"
	"os"
	"os/exec"
	"strings"
	"unicode"
)

// spawn starts a daemon that outlives this process. When the daemon ends, exited receives the error of its process, or nil.
func spawn(dir, exe string, args []string, log *os.File) (exited <-chan error, err error) {
	cmd := exec.Command(exe, append([]string{"sandboxd", "--home=" + dir}, args...)...)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = log, log // stdin stays nil, which is the null device
	detach(cmd)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	return done, nil
}

// tail returns the last lines, at most 8, that were written to a log after logOffset. It replaces unprintable
// characters with question marks.
func tail(path string, logOffset int64) string {
	const maximum, lines = 4 << 10, 8
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if end, err := f.Seek(0, io.SeekEnd); err == nil {
		logOffset = max(logOffset, end-maximum)
	}
	text, _ := io.ReadAll(io.LimitReader(io.NewSectionReader(f, logOffset, maximum), maximum))
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	logTail := strings.Join(all[max(0, len(all)-lines):], "\n")
	return strings.Map(func(r rune) rune {
		if r != '\n' && !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, logTail)
}
