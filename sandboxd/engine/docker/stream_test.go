package docker

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

func frame(kind byte, text string) []byte {
	header := make([]byte, frameHeader)
	header[0] = kind
	binary.BigEndian.PutUint32(header[4:], uint32(len(text)))
	return append(header, text...)
}

// openStream returns a stream and the other end of its connection, to which the test writes.
func openStream(t *testing.T) (*stream, net.Conn) {
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return newStream(ours, ours), theirs
}

func TestStreamReturnsOnlyStdout(t *testing.T) {
	s, engine := openStream(t)
	go func() {
		for _, f := range [][]byte{frame(1, "one "), frame(2, "a warning"), frame(1, ""), frame(1, "two")} {
			for _, b := range f { // each byte is written separately
				engine.Write([]byte{b})
			}
		}
		engine.Close()
	}()
	got, err := io.ReadAll(s)
	if string(got) != "one two" {
		t.Errorf("read %q", got)
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), "a warning") {
		t.Errorf("error = %v, want the text of stderr", err)
	}
}

func TestStreamEndsWithoutAnError(t *testing.T) {
	s, engine := openStream(t)
	go func() { engine.Write(frame(1, "x")); engine.Close() }()
	if got, err := io.ReadAll(s); string(got) != "x" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestStreamRejectsInvalidFrames(t *testing.T) {
	for name, bytes := range map[string][]byte{
		"an unknown kind":   {9, 0, 0, 0, 0, 0, 0, 1, 'x'},
		"stdin":             {0, 0, 0, 0, 0, 0, 0, 1, 'x'},
		"no padding":        {1, 'H', 'T', 'T', 0, 0, 0, 1, 'x'},
		"a size of 4 GiB":   {1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff},
		"half a header":     {1, 0, 0},
		"plain text":        []byte("OCI runtime exec failed"),
		"half of the frame": frame(1, "xyz")[:9],
	} {
		t.Run(name, func(t *testing.T) {
			s, engine := openStream(t)
			go func() { engine.Write(bytes); engine.Close() }()
			if got, err := io.ReadAll(s); err == nil {
				t.Errorf("read %q without an error, want an error", got)
			}
		})
	}
}

func TestStreamLimitsStderr(t *testing.T) {
	s, engine := openStream(t)
	go func() {
		for range 100 {
			engine.Write(frame(2, strings.Repeat("x", 4096)))
		}
		engine.Close()
	}()
	_, err := io.ReadAll(s)
	if err == nil || len(err.Error()) > 2*maxStderr {
		t.Errorf("the error has %d bytes, want at most %d", len(err.Error()), 2*maxStderr)
	}
}

func TestStreamDeadlineLosesNothing(t *testing.T) {
	s, engine := openStream(t)
	intact := frame(1, "text")
	for cut := range len(intact) {
		go engine.Write(intact[:cut])
		var got []byte
		buf := make([]byte, 16)
		s.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		for {
			n, err := s.Read(buf)
			got = append(got, buf[:n]...)
			if err != nil {
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatal(err)
				}
				break
			}
		}
		s.SetReadDeadline(time.Time{})
		go engine.Write(intact[cut:])
		for len(got) < 4 {
			n, err := s.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, buf[:n]...)
		}
		if string(got) != "text" {
			t.Errorf("with a deadline after byte %d: read %q", cut, got)
		}
	}
}

// FuzzStream checks that reading a stream ends for any input of the engine, and returns no more bytes than the engine
// has sent.
func FuzzStream(f *testing.F) {
	f.Add(frame(1, "x"))
	f.Add(append(frame(2, "err"), frame(1, "out")...))
	f.Add([]byte{1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		defer ours.Close()
		got, _ := io.ReadAll(newStream(ours, bytes.NewReader(data)))
		if len(got) > len(data) {
			t.Errorf("read %d bytes, want %d", len(got), len(data))
		}
	})
}
