package httpd_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/httpd"
)

// start runs the server s until the test ends or stop is called. stop returns the error of Serve.
func start(t *testing.T, s httpd.Server) (url string, stop func() error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Log = slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	return "http://" + l.Addr().String(), func() error { cancel(); return <-done }
}

// TestStopWaitsForRequests checks that Serve calls OnStop, and then waits for a request that OnStop ends.
func TestStopWaitsForRequests(t *testing.T) {
	begun, stopping := make(chan struct{}), make(chan struct{})
	url, stop := start(t, httpd.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			close(begun)
			<-stopping
			w.WriteHeader(http.StatusTeapot)
		}),
		OnStop:       func() { close(stopping) },
		StopPatience: time.Hour,
	})
	status := make(chan int, 1)
	go func() {
		res, err := http.Get(url)
		if err != nil {
			t.Errorf("the request in flight failed: %v", err)
			status <- 0
			return
		}
		res.Body.Close()
		status <- res.StatusCode
	}()
	<-begun
	if err := stop(); err != nil {
		t.Errorf("Serve() = %v, want nil", err)
	}
	if got := <-status; got != http.StatusTeapot {
		t.Errorf("the request in flight got %d, want the handler's answer %d", got, http.StatusTeapot)
	}
	if _, err := http.Get(url); err == nil {
		t.Error("a request after Serve returned was answered")
	}
}

// TestStopClosesStuckRequests checks that Serve closes the connection of a request that does not end within StopPatience.
func TestStopClosesStuckRequests(t *testing.T) {
	begun := make(chan struct{})
	url, stop := start(t, httpd.Server{
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			close(begun)
			<-r.Context().Done()
		}),
		OnStop:       func() {},
		StopPatience: time.Millisecond,
	})
	failed := make(chan error, 1)
	go func() {
		_, err := http.Get(url)
		failed <- err
	}()
	<-begun
	if err := stop(); err != nil {
		t.Errorf("Serve() = %v, want nil", err)
	}
	if err := <-failed; err == nil {
		t.Error("the stuck request was answered, want that its connection was closed")
	}
}

func TestServeReportsABrokenListener(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	s := httpd.Server{Handler: http.NotFoundHandler(), Log: slog.New(slog.DiscardHandler)}
	if err := s.Serve(t.Context(), l); err == nil {
		t.Error("Serve() with a closed listener = nil, want an error")
	}
}
