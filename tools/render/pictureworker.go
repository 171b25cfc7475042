package render

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"image"
	"image/jpeg"
	"image/png"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"

	"golang.org/x/image/draw"
)

// A worker is a separate process, running this program, that decodes one picture. It reads the picture from stdin and
// writes its answer to stdout. Its environment is empty. On Linux, it limits its own resources before it reads the
// picture, so that a hostile picture can use at most workerMemory and workerCPU. The caller kills the worker after
// workerDeadline or when the call is cancelled.
const (
	workerArgument = "picture-worker"
	workerMemory   = 384 * 1 << 20
	workerCPU      = 6 // the CPU time of a worker, in seconds
	workerFiles    = 16
)

// Answers of a worker. workerMade is followed by the bytes of the smaller picture.
const (
	workerKeep      = "keep\n"    // the picture is valid and fits unchanged
	workerMade      = "made\n"    // the worker made a smaller picture that fits
	workerInvalid   = "invalid\n" // the picture is broken
	workerCannotFit = "no room\n" // the picture can't be made small enough
)

// workerEnabled is true if this program has called RunPictureWorker. Only such a program can be started as a worker.
var workerEnabled bool

// RunPictureWorker decodes a picture and exits if this process was started as a worker; otherwise it returns. A program
// that calls [NewPictures] must call RunPictureWorker at the beginning of main. If it does not, answers show no pictures.
func RunPictureWorker() {
	workerEnabled = true
	if len(os.Args) != 4 || os.Args[1] != workerArgument {
		return
	}
	budget, err := strconv.Atoi(os.Args[2])
	size, sizeErr := strconv.Atoi(os.Args[3])
	if errors.Join(err, sizeErr) != nil || size < 0 || size > MaxPictureFile {
		os.Exit(2)
	}
	runtime.GOMAXPROCS(1)
	debug.SetMemoryLimit(workerMemory * 3 / 4)
	if err := confineWorker(); err != nil {
		os.Exit(1)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(os.Stdin, data); err != nil {
		os.Exit(1)
	}
	if _, err := os.Stdout.Write(reducePicture(data, budget)); err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

// runPictureWorker decodes the picture data in a worker. It returns a smaller picture that fits into budget bytes of
// base64, or nil if data fits unchanged. It kills the worker when ctx ends.
func runPictureWorker(ctx context.Context, data []byte, budget int) ([]byte, error) {
	self, err := workerPath()
	if err != nil || !workerEnabled {
		return nil, errors.New("this program cannot decode pictures")
	}
	limited, cancel := context.WithTimeout(ctx, workerDeadline)
	defer cancel()
	cmd := exec.CommandContext(limited, self, workerArgument, strconv.Itoa(budget), strconv.Itoa(len(data)))
	out := &boundedBuffer{maximum: len(workerMade) + max(budget, 0)}
	cmd.Env = []string{}
	cmd.Stdin, cmd.Stdout = bytes.NewReader(data), out
	cmd.WaitDelay = time.Second
	hideWindow(cmd)
	err = cmd.Start()
	started := err == nil
	if started {
		err = cmd.Wait()
	}
	switch {
	case ctx.Err() != nil:
		return nil, errors.New("the call was cancelled")
	case !started:
		return nil, errNotStarted
	case err != nil:
		return nil, errTooCostly
	}
	switch answer := out.Bytes(); {
	case string(answer) == workerKeep:
		return nil, nil
	case string(answer) == workerCannotFit:
		return nil, errCannotFit
	case bytes.HasPrefix(answer, []byte(workerMade)):
		return answer[len(workerMade):], nil
	}
	return nil, errNotPicture
}

// reducePicture decodes a picture and returns the worker's answer: workerKeep, workerInvalid, workerCannotFit, or workerMade
// and the bytes of the smaller picture.
func reducePicture(data []byte, budget int) []byte {
	img, format, err := image.Decode(bytes.NewReader(data))
	if err != nil {
		return []byte(workerInvalid)
	}
	if max(img.Bounds().Dx(), img.Bounds().Dy()) <= maxImageSide && base64.StdEncoding.EncodedLen(len(data)) <= budget {
		return []byte(workerKeep)
	}
	for side := maxImageSide; side >= 196; side /= 2 {
		small := scale(img, side)
		encoders := []func(image.Image) ([]byte, error){encodePNG, encodeJPEG(85), encodeJPEG(60)}
		if format == "jpeg" || pngTooLarge(len(data), img, small, budget) {
			encoders = encoders[1:]
		}
		for _, encode := range encoders {
			b, err := encode(small)
			if err == nil && base64.StdEncoding.EncodedLen(len(b)) <= budget {
				return append([]byte(workerMade), b...)
			}
		}
	}
	return []byte(workerCannotFit)
}

// pngTooLarge reports whether a PNG of the smaller picture would probably be far larger than budget. It estimates this
// from size, the number of bytes of the large picture, and saves the second or two that encoding the PNG would take.
func pngTooLarge(size int, large, small image.Image, budget int) bool {
	pixels := func(img image.Image) float64 { return float64(img.Bounds().Dx()) * float64(img.Bounds().Dy()) }
	return float64(size)*pixels(small)/pixels(large) > 2*float64(budget)
}

func encodePNG(img image.Image) ([]byte, error) {
	var b bytes.Buffer
	err := png.Encode(&b, img)
	return b.Bytes(), err
}

func encodeJPEG(quality int) func(image.Image) ([]byte, error) {
	return func(img image.Image) ([]byte, error) {
		// JPEG has no transparency, and transparent pixels would become black. So the image is drawn on white.
		flat := image.NewRGBA(img.Bounds())
		draw.Draw(flat, flat.Bounds(), image.White, image.Point{}, draw.Src)
		draw.Draw(flat, flat.Bounds(), img, img.Bounds().Min, draw.Over)
		var b bytes.Buffer
		err := jpeg.Encode(&b, flat, &jpeg.Options{Quality: quality})
		return b.Bytes(), err
	}
}

// scale shrinks an image so that its longer side has at most side pixels. It returns a smaller image unchanged.
func scale(img image.Image, side int) image.Image {
	from := img.Bounds()
	w, h := from.Dx(), from.Dy()
	if max(w, h) <= side {
		return img
	}
	if w >= h {
		w, h = side, max(1, h*side/w)
	} else {
		w, h = max(1, w*side/h), side
	}
	small := image.NewRGBA(image.Rect(0, 0, w, h)) // Scale is fast only for *image.RGBA
	// Scale allocates 32 bytes × rows of the original × columns of the result. So a large image is scaled in strips.
	const strip = 64
	for top := 0; top < h; top += strip {
		bottom := min(top+strip, h)
		rows := image.Rect(from.Min.X, from.Min.Y+top*from.Dy()/h, from.Max.X, from.Min.Y+bottom*from.Dy()/h)
		draw.BiLinear.Scale(small, image.Rect(0, top, w, bottom), img, rows, draw.Src, nil)
	}
	return small
}
