package enginetest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

func (s *suite) stream(t *testing.T) {
	b := s.create(t, s.spec())
	t.Run("100 MB in and out", func(t *testing.T) {
		const size = 100_000_000
		sent := sha256.New()
		start := time.Now()
		source := io.LimitReader(rand.NewChaCha8([32]byte{1}), size)
		b.mustRequest(t, "PUT", "/blob", io.TeeReader(source, sent))
		there := time.Since(start)
		resp, err := b.client.Get("http://guest/blob")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		received := sha256.New()
		n, err := io.Copy(received, resp.Body)
		if err != nil || n != size {
			t.Fatalf("read %d bytes, %v, want %d", n, err, size)
		}
		if got, want := hex.EncodeToString(received.Sum(nil)), hex.EncodeToString(sent.Sum(nil)); got != want {
			t.Errorf("sha256 = %s, want %s", got, want)
		}
		t.Logf("in %v, out %v", there, time.Since(start)-there)
	})
	t.Run("five streams can be used at once", func(t *testing.T) {
		var group sync.WaitGroup
		for range 5 {
			other := s.dial(t, b.id)
			group.Go(func() {
				for range 20 {
					if _, err := other.request(t.Context(), "GET", "/args", nil); err != nil {
						t.Error(err)
					}
				}
			})
		}
		group.Wait()
	})
	t.Run("a closed stream leaves no process", func(t *testing.T) {
		for range 3 {
			conn, err := s.engine.Dial(t.Context(), b.id)
			if err != nil {
				t.Fatal(err)
			}
			if err := conn.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			if _, err := conn.Read(make([]byte, 1)); err == nil {
				t.Error("Read after Close = nil, want an error")
			}
		}
		// The clients of the previous subtest closed their streams when it ended. After this call, the only stream is
		// the one that the request for /streams opens.
		b.client.CloseIdleConnections()
		eventually(t, "only one stream is open in the sandbox", func() bool {
			return strings.TrimSpace(b.mustRequest(t, "GET", "/streams", nil)) == "1"
		})
	})
	t.Run("a stream can be used after a read deadline has passed", func(t *testing.T) {
		conn, err := s.engine.Dial(t.Context(), b.id)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if _, err = conn.Read(make([]byte, 1)); !isTimeout(err) {
			t.Errorf("Read = %v, want a timeout", err)
		}
		conn.SetReadDeadline(time.Now().Add(time.Minute))
		// Send HTTP/2's preface and an empty SETTINGS frame. The guest answers with a SETTINGS frame (type 4).
		if _, err := conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")); err != nil {
			t.Fatal(err)
		}
		header := make([]byte, 9)
		if _, err := io.ReadFull(conn, header); err != nil || header[3] != 4 {
			t.Errorf("read % x, %v, want a SETTINGS frame", header, err)
		}
	})
	t.Run("Dial with a cancelled context returns the context's error", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.engine.Dial(ctx, b.id); !errors.Is(err, context.Canceled) {
			t.Errorf("Dial = %v, want context.Canceled", err)
		}
	})
	t.Run("a request ends when the sandbox is removed", func(t *testing.T) {
		spec := s.spec()
		doomed := s.create(t, spec)
		doomed.mustRequest(t, "GET", "/args", nil)
		response := doomed.startSleep(t)
		remove(t, s.engine, spec.ID)
		wantCutOff(t, response)
	})
}

// startSleep sends a request whose response does not end, and returns when the guest handles it. The channel receives the
// error with which the response ends.
func (b testSandbox) startSleep(t *testing.T) <-chan error {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://guest/hog/sleep", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := b.client.Do(req) // returns when the guest has sent the response's header
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		defer resp.Body.Close()
		_, err := io.Copy(io.Discard, resp.Body)
		ended <- err
	}()
	return ended
}

// wantCutOff fails the test unless the response of startSleep ends with an error.
func wantCutOff(t *testing.T, ended <-chan error) {
	t.Helper()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the response ended without an error, want an error")
		}
	case <-time.After(time.Minute):
		t.Error("the response did not end within a minute")
	}
}

func isTimeout(err error) bool {
	timeout, ok := err.(interface{ Timeout() bool })
	return ok && timeout.Timeout()
}
