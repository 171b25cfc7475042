//go:build linux

package stdio

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain sets a drainTimeout that passes only if a stream does not end as it should.
func TestMain(m *testing.M) {
	drainTimeout = time.Minute
	os.Exit(m.Run())
}

// fifos are the paths of two named pipes that represent the guest's stdin and stdout. The test opens them again to
// simulate the new pipes that a guest gets after each restore.
type fifos struct {
	in, out        string
	disconnections chan struct{} // receives a value each time the listener finds that the engine's end is closed
}

func newFifos(t *testing.T) fifos {
	t.Helper()
	f := fifos{filepath.Join(t.TempDir(), "in"), filepath.Join(t.TempDir(), "out"), make(chan struct{}, 100)}
	for _, path := range []string{f.in, f.out} {
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func open(t *testing.T, path string, mode int) *os.File {
	t.Helper()
	file, err := os.OpenFile(path, mode|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

// serve starts a listener that echoes all bytes of each stream, and returns the engine's side of the first stream.
func (f fifos) serve(t *testing.T) *Stream {
	t.Helper()
	in := open(t, f.in, os.O_RDONLY)
	first := f.newStream(t)
	l := newListener(Pipes{in, open(t, f.out, os.O_WRONLY)})
	l.onDisconnect = func() { f.disconnections <- struct{}{} }
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(conn, conn)
				conn.Close()
			}()
		}
	}()
	return first
}

// newStream returns the engine's side of a new stream, as after a start or a restore of the guest.
func (f fifos) newStream(t *testing.T) *Stream {
	t.Helper()
	out := open(t, f.out, os.O_RDONLY)
	return New(Pipes{out, open(t, f.in, os.O_WRONLY)})
}

func openStream(t *testing.T, s *Stream) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.Open(ctx); err != nil {
		t.Fatal(err)
	}
}

func wantEcho(t *testing.T, s *Stream, size int) {
	t.Helper()
	sent := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	go s.Write(sent)
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("the echo of %d bytes differs from what was sent (read error: %v)", len(sent), err)
	}
}

func closeStream(t *testing.T, s *Stream) {
	t.Helper()
	s.Close()
	s.Close()
	select {
	case <-s.Ended():
	case <-time.After(drainTimeout / 2):
		t.Error("the guest has not sent the ticket back, want that it does when the stream is closed")
	}
	if _, err := s.Read(make([]byte, 1)); err != net.ErrClosed {
		t.Errorf("Read of a closed stream = %v, want net.ErrClosed", err)
	}
}

func TestStream(t *testing.T) {
	s := newFifos(t).serve(t)
	openStream(t, s)
	wantEcho(t, s, 16)
	wantEcho(t, s, 10<<20)
	closeStream(t, s)
}

// TestCloseDuringReadAndWrite checks that a stream can be closed during a Read and a Write while the pipes are full,
// and that both return and the next stream works.
func TestCloseDuringReadAndWrite(t *testing.T) {
	f := newFifos(t)
	s := f.serve(t)
	openStream(t, s)
	done := make(chan bool, 2)
	go func() {
		s.Write(make([]byte, 10<<20))
		done <- true
	}()
	awaitFull(t, s.Out)
	go func() {
		io.Copy(io.Discard, s)
		done <- true
	}()
	closeStream(t, s)
	<-done
	<-done
	s = f.newStream(t)
	openStream(t, s)
	wantEcho(t, s, 16)
}

// awaitFull waits until a pipe is full.
func awaitFull(t *testing.T, pipe *os.File) {
	t.Helper()
	raw, err := pipe.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		full := false
		if err := raw.Control(func(fd uintptr) {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 0)
			full = n == 0 && err == nil
		}); err != nil {
			t.Fatal(err)
		}
		if full {
			return
		}
		if time.Now().After(until) {
			t.Fatal("the pipe is not full after a minute")
		}
	}
}

// TestStreamsAfterRestores simulates restores of a guest. It checks that a stream can be opened after each restore,
// even if an engine process ended after it had sent only a part of a ticket. It also checks that the guest uses almost
// no CPU time while it waits for a stream.
func TestStreamsAfterRestores(t *testing.T) {
	f := newFifos(t)
	s := f.serve(t)
	for range 3 {
		openStream(t, s)
		wantEcho(t, s, 1<<20)
		closeStream(t, s)
		<-f.disconnections
		before := cpu(t)
		time.Sleep(100 * time.Millisecond) // the period for which the CPU time is measured
		if used := cpu(t) - before; used > 50*time.Millisecond {
			t.Errorf("waiting for a stream for 100 ms used %v of CPU time, want at most 50ms", used)
		}
		for len(f.disconnections) > 0 {
			<-f.disconnections
		}
		s = f.newStream(t)
		io.WriteString(s.Out, "half a tick") // the engine ends after it has sent a part of the ticket
		s.In.Close()
		s.Out.Close()
		<-f.disconnections
		s = f.newStream(t)
	}
}

func cpu(t *testing.T) time.Duration {
	t.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// TestOpenFailsWithoutAGuest checks that Open fails and closes the stream if the guest sends nothing, or something
// other than Joined.
func TestOpenFailsWithoutAGuest(t *testing.T) {
	for name, says := range map[string]string{"nothing": "", "something else": "HTTP/1.1 400"} {
		t.Run(name, func(t *testing.T) {
			f := newFifos(t)
			in := open(t, f.in, os.O_RDONLY)
			defer in.Close()
			s := f.newStream(t)
			out := open(t, f.out, os.O_WRONLY)
			io.WriteString(out, says)
			if says != "" {
				out.Close()
			}
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if err := s.Open(ctx); err == nil {
				t.Fatal("Open() = nil, want an error")
			}
			out.Close() // simulate the end of the guest
			<-s.Ended()
		})
	}
}
