//go:build unix

package render_test

import (
	"bytes"
	"context"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools/render"
	"github.com/dormouse-sandbox/dormouse/tools/toolstest"
)

// progressive returns a progressive grey JPEG whose coefficients are all zero. Its first scan contains the mean values
// of the blocks. The further scans have only a few bytes each and do not change the picture.
func progressive(side, scans int) []byte {
	b := []byte{0xff, 0xd8}
	segment := func(marker byte, content ...byte) {
		n := len(content) + 2
		b = append(append(b, 0xff, marker, byte(n>>8), byte(n)), content...)
	}
	segment(0xdb, append([]byte{0}, bytes.Repeat([]byte{1}, 64)...)...)
	segment(0xc2, 8, byte(side>>8), byte(side), byte(side>>8), byte(side), 1, 1, 0x11, 0)
	lengths := append([]byte{1}, make([]byte, 15)...) // a Huffman table with a single code of one bit
	segment(0xc4, append(append([]byte{0x00}, lengths...), 0)...)
	segment(0xc4, append(append([]byte{0x10}, lengths...), 0xe0)...) // a table whose single code ends a run of 16,384 blocks
	segment(0xda, 1, 1, 0x00, 0, 0, 0)
	blocks := ((side + 7) / 8) * ((side + 7) / 8)
	b = append(b, make([]byte, blocks/8+1)...)
	for range scans - 1 {
		segment(0xda, 1, 1, 0x00, 1, 63, 0)
		b = append(b, make([]byte, 2*(blocks/16384+1))...)
	}
	return append(b, 0xff, 0xd9)
}

func TestPicturesThatCostTooMuchAreRefused(t *testing.T) {
	bomb := progressive(8, 1)
	at := bytes.Index(bomb, []byte{0xff, 0xc2})
	copy(bomb[at+5:], []byte{0xff, 0xff, 0x02, 0xf0}) // 752 × 65,535
	for _, c := range []struct{ name, content, wants string }{
		{"a small progressive JPEG of many pixels", string(bomb), "its 752×65535 pixels take 246,415,360 bytes to decode, which is too much"},
		{"a JPEG of many scans", string(progressive(800, 300)), "it has 300 scans, which is too many"},
		{"an interlaced PNG of many pixels", interlacedHeader(6000), "take 288,000,000 bytes to decode"},
		{"two frames", strings.Replace(string(progressive(16, 1)), "\xff\xda", string(progressive(16, 1)[at:at+13])+"\xff\xda", 1), "it is not a valid PNG or JPEG"},
	} {
		t.Run(c.name, func(t *testing.T) {
			toolstest.WantText(t, show(t.Context(), c.content), true, "is an image that cannot be shown: ", c.wants)
		})
	}
}

func interlacedHeader(side uint32) string {
	return "\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR" + string([]byte{0, 0, byte(side >> 8), byte(side), 0, 0, byte(side >> 8), byte(side), 8, 6, 0, 0, 1, 0, 0, 0, 0})
}

func TestProgressivePictureIsShown(t *testing.T) {
	r := show(t.Context(), string(progressive(800, 10)))
	toolstest.WantText(t, r, false, "an image of 800×800 pixels")
	if len(r.Content) != 2 {
		t.Errorf("the answer has %d contents, want a text and an image", len(r.Content))
	}
}

// workers returns the pids of the running workers that this process has started.
func workers(t *testing.T) (pids []int) {
	t.Helper()
	found, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range found {
		stat, _ := os.ReadFile(path)
		command, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		fields := strings.Fields(string(stat))
		if len(fields) > 3 && fields[3] == strconv.Itoa(os.Getpid()) && fields[2] != "Z" && strings.Contains(string(command), "\x00picture-worker\x00") {
			pid, _ := strconv.Atoi(fields[0])
			pids = append(pids, pid)
		}
	}
	return pids
}

// stopWorkers waits until n workers run, stops them with SIGSTOP so that they never finish, and returns their pids.
func stopWorkers(t *testing.T, n int) (pids []int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); len(pids) < n; {
		if time.Now().After(deadline) {
			t.Fatalf("%d workers ran within a minute, want %d", len(pids), n)
		}
		pids = workers(t)
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGSTOP)
		}
	}
	return pids
}

// slowPicture returns a picture whose decoding takes long enough for the test to find the worker.
func slowPicture() string {
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewGray(image.Rect(0, 0, 6000, 6000))); err != nil {
		panic(err)
	}
	return b.String()
}

func TestCancelledCallEndsItsWorker(t *testing.T) {
	needProc(t)
	ctx, cancel := context.WithCancel(t.Context())
	answer := make(chan *mcp.CallToolResult)
	go func() { answer <- show(ctx, slowPicture()) }()
	stopWorkers(t, 1)
	cancel()
	toolstest.WantText(t, <-answer, true, "cancelled")
	if left := workers(t); len(left) > 0 {
		t.Errorf("workers %v run after the call was cancelled, want none", left)
	}
}

func TestOneOwnersPicturesDoNotBlockAnothers(t *testing.T) {
	needProc(t)
	pictures := render.NewPictures()
	bombs, cancel := context.WithCancel(sandbox.WithOwner(t.Context(), "hostile"))
	defer cancel()
	answers := make(chan *mcp.CallToolResult)
	slow := slowPicture()
	for range 6 {
		go func() { answers <- showBy(bombs, pictures, slow) }()
	}
	stopWorkers(t, 2) // 2 workers are the limit for one owner, so this owner's next picture must wait
	neighbour := sandbox.WithOwner(t.Context(), "neighbour")
	toolstest.WantText(t, showBy(neighbour, pictures, bytesOfPlot(64, 64)), false, "an image of 64×64 pixels")
	cancel()
	for range 6 {
		<-answers
	}
}

// needProc skips the test on a system without /proc.
func needProc(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("NOT TESTED: workers are found in /proc")
	}
}
