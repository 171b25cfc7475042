package enginetest

import (
	"context"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// limits checks that a sandbox can't exceed its limits, and that a neighbour sandbox answers during each attempt.
func (s *suite) limits(t *testing.T) {
	neighbour := s.create(t, s.spec())
	neighbour.mustRequest(t, "GET", "/args", nil)
	gvisor := strings.HasPrefix(s.engine.Info().Runtime, "runsc")

	hog := func(t *testing.T, b testSandbox, what string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		watched := make(chan time.Duration)
		stop := make(chan struct{})
		go func() { watched <- s.slowestAnswer(t, neighbour, stop) }()
		text, err := b.request(ctx, "POST", "/hog/"+what, nil)
		close(stop)
		t.Logf("%s: %q, %v; the slowest answer of the other sandbox: %v", what, text, err, <-watched)
		if err != nil {
			return err.Error()
		}
		return text
	}

	t.Run("memory", func(t *testing.T) {
		b := s.create(t, s.spec())
		if got := hog(t, b, "memory"); strings.Contains(got, "had") {
			t.Errorf("the hog printed %q, want it stopped", got)
		}
		if gvisor {
			return // the whole sandbox was killed; with the real guest, the watchdog acts before that
		}
		b.mustRequest(t, "GET", "/args", nil)
	})
	t.Run("processes", func(t *testing.T) {
		if gvisor {
			t.Skip("on gVisor the guest's rlimits limit processes, because the cgroup's limit also counts gVisor's own threads")
		}
		spec := s.spec()
		b := s.create(t, spec)
		got := hog(t, b, "processes")
		if n := parseNumber(t, got, `^(\d+) processes, then EAGAIN`); n < 10 || n > spec.Limits.Processes+64 {
			t.Errorf("the hog printed %q, want at most %d processes", got, spec.Limits.Processes+64)
		}
		b.mustRequest(t, "GET", "/args", nil)
	})
	t.Run("disk", func(t *testing.T) {
		spec := s.spec()
		b := s.create(t, spec)
		got := hog(t, b, "disk")
		want := int(spec.Limits.WorkspaceBytes >> 20)
		if n := parseNumber(t, got, `^(\d+) MiB, then ENOSPC`); n < want-2 || n > want {
			t.Errorf("the hog printed %q, want %d MiB", got, want)
		}
		b.mustRequest(t, "GET", "/args", nil)
	})
	t.Run("inodes", func(t *testing.T) {
		if gvisor {
			t.Skip("on gVisor the guest counts files, because gVisor's tmpfs has no limit on inodes")
		}
		b := s.create(t, s.spec())
		got := hog(t, b, "inodes")
		if n := parseNumber(t, got, `^(\d+) files, then ENOSPC`); n > 10_000 {
			t.Errorf("the hog printed %q, want at most 10000 files", got)
		}
	})
}

// slowestAnswer sends requests to a sandbox until stop is closed or a request fails, and returns how long the slowest
// response took.
func (s *suite) slowestAnswer(t *testing.T, b testSandbox, stop <-chan struct{}) (slowest time.Duration) {
	for {
		select {
		case <-stop:
			return slowest
		case <-time.After(10 * time.Millisecond):
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		start := time.Now()
		_, err := b.request(ctx, "GET", "/args", nil)
		cancel()
		if err != nil {
			t.Errorf("a request to the other sandbox: %v", err)
			return slowest
		}
		slowest = max(slowest, time.Since(start))
	}
}

func parseNumber(t *testing.T, text, pattern string) int {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("the hog printed %q, want a text that matches %s", text, pattern)
	}
	n, _ := strconv.Atoi(m[1]) // can't fail: the pattern matches only digits
	return n
}
