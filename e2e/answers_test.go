//go:build linux

package e2e_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
)

// TestParallelLargeAnswersAreBounded checks that the server keeps to its memory budget for answers while 24 clients request
// the same 15 MB of output at the same time. A request waits if too little of the budget is left. If it waits too long, it
// gets an error that names the limit. The test also accepts the error that the guest does not answer, because a slow machine
// may cause it.
func TestParallelLargeAnswersAreBounded(t *testing.T) {
	needsEngine(t)
	h := newHome(t)
	s := startServe(t, h)
	c := h.connect(t)
	id := c.create(nil)
	execution := regexp.MustCompile(`exec_[a-z0-9]+`).FindString(c.call("execute_code", args{"sandbox_id": id, "code": `for i in range(150): print("x" * 100_000)`, "wait_seconds": 60}).Text)
	if execution == "" {
		t.Fatal("the answer of execute_code contains no execution id")
	}
	before := peakRSS(t, s.cmd.Process.Pid)
	var whole, refused atomic.Int64
	var clients sync.WaitGroup
	for range 24 {
		clients.Go(func() {
			r, err := http.NewRequest("GET", s.url+"/v1/executions/"+execution+"?head=16000000", nil)
			if err != nil {
				t.Error(err)
				return
			}
			r.Header.Set("Authorization", "Bearer "+s.token)
			res, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			switch {
			case err == nil && res.StatusCode == http.StatusOK && len(body) > 15_000_000 && json.Valid(body):
				whole.Add(1)
			case err == nil && res.StatusCode == http.StatusServiceUnavailable && regexp.MustCompile(`may take \d+ MiB of memory|does not answer: try again`).Match(body):
				refused.Add(1)
			default:
				t.Errorf("got status %d, %d bytes that begin with %.200s, and error %v; want the whole output, or 503 with the limit", res.StatusCode, len(body), body, err)
			}
		})
	}
	clients.Wait()
	grown := peakRSS(t, s.cmd.Process.Pid) - before
	t.Logf("%d answers, %d refused, the server's peak memory grew by %d MiB", whole.Load(), refused.Load(), grown>>20)
	if whole.Load() == 0 {
		t.Error("no client got the whole output, want at least one")
	}
	// The budget for answers is 512 MiB, and the garbage collector lets the heap grow to twice this size.
	if grown > 1200<<20 {
		t.Errorf("the server's peak memory grew by %d MiB, want at most 1,200", grown>>20)
	}
}

// peakRSS returns the peak memory of a process in bytes.
func peakRSS(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(text)
	if m == nil {
		t.Fatal("/proc/PID/status of the server has no VmHWM")
	}
	kib, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}
