//go:build linux

package render

import (
	"bytes"
	"errors"
	"image"
	_ "image/png"
	"syscall"
	"testing"
)

// TestWorkerIsConfined checks that a worker's memory stays limited even if the header checks accept a picture that is
// too large.
func TestWorkerIsConfined(t *testing.T) {
	bomb := append([]byte("\xff\xd8\xff\xc2\x00\x11\x08\xff\xff\xff\xff\x03\x01\x44\x00\x02\x44\x00\x03\x44\x00"), // 65,535 × 65,535, three components
		"\xff\xda\x00\x0c\x03\x01\x00\x02\x00\x03\x00\x00\x00\x00\x00\xff\xd9"...)
	for _, data := range [][]byte{bomb, []byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR\x00\x00\xff\xff\x00\x00\xff\xff\x10\x06\x00\x00\x00\x00\x00\x00\x00")} {
		if made, err := runPictureWorker(t.Context(), data, maxImagesBytes); err == nil {
			t.Errorf("the worker made %d bytes of a bomb, want an error", len(made))
		}
	}
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &used); err != nil {
		t.Fatal(err)
	}
	const maximum = (workerMemory + 256<<20) >> 10 // the limit of Maxrss in KiB; 256 MiB of it are for the test binary itself
	if used.Maxrss > maximum {
		t.Errorf("a worker took %d KiB, want at most %d", used.Maxrss, maximum)
	}
}

func FuzzInspectPicture(f *testing.F) {
	f.Add([]byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR\x00\x00\x00\x10\x00\x00\x00\x10\x08\x06\x00\x00\x00\x1f\xf3\xffa"))
	f.Add([]byte("\xff\xd8\xff\xc2\x00\x0b\x08\x00\x10\x00\x10\x01\x01\x11\x00\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00\x00\xff\xd9"))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := inspectPicture(data)
		config, _, decodeErr := image.DecodeConfig(bytes.NewReader(data))
		if err == nil && decodeErr == nil && (h.width != config.Width || h.height != config.Height) {
			t.Errorf("the header says %d×%d, the decoder %d×%d", h.width, h.height, config.Width, config.Height)
		}
	})
}

// TestWorkerThatCannotBeStarted checks that the error does not blame the picture if the system can't start a worker.
func TestWorkerThatCannotBeStarted(t *testing.T) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 0
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	_, err := runPictureWorker(t.Context(), []byte("picture"), maxImagesBytes)
	if restoreErr := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); restoreErr != nil {
		t.Fatal(restoreErr)
	}
	if !errors.Is(err, errNotStarted) {
		t.Errorf("without files for the worker's pipes: %v, want %v", err, errNotStarted)
	}
}
