package render_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/jpeg"
	"image/png"
	"math/rand/v2"
	"testing"

	"github.com/dormouse-sandbox/dormouse/tools/render"
	"github.com/dormouse-sandbox/dormouse/tools/toolstest"
	"github.com/mark3labs/mcp-go/mcp"
)

// show returns the answer of read_file about a picture with this content.
func show(ctx context.Context, content string) *mcp.CallToolResult {
	return showBy(ctx, render.NewPictures(), content)
}

func showBy(ctx context.Context, pictures *render.Pictures, content string) *mcp.CallToolResult {
	return render.File{Sandbox: "box", Path: "f.png", Size: int64(len(content))}.Picture(ctx, []byte(content), pictures)
}

// noise returns a picture of random pixels, which can hardly be compressed.
func noise(w, h int) image.Image {
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	r := rand.New(rand.NewPCG(1, 2))
	for i := range img.Pix {
		img.Pix[i] = byte(r.Uint32()) | 0x80
	}
	return img
}

func encodedPNG(t *testing.T, img image.Image) string {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestPicture checks that an answer shows pictures, and shrinks them enough for every client.
func TestPicture(t *testing.T) {
	var jpg bytes.Buffer
	if err := jpeg.Encode(&jpg, noise(300, 200), nil); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, content, wantWords, mime string
	}{
		{"small PNG", encodedPNG(t, noise(30, 20)), "an image of 30×20 pixels", "image/png"},
		{"JPEG", jpg.String(), "300×200", "image/jpeg"},
		{"tall PNG", encodedPNG(t, image.NewGray(image.Rect(0, 0, 10, 5000))), "shown as 3×1568", "image/png"},
		{"large PNG", encodedPNG(t, noise(800, 800)), "shown as 800×800", "image/jpeg"},
		{"16 bits", encodedPNG(t, image.NewNRGBA64(image.Rect(0, 0, 2000, 10))), "shown as 1568×7", "image/png"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := show(t.Context(), c.content)
			toolstest.WantText(t, r, false, c.wantWords)
			img, ok := r.Content[1].(mcp.ImageContent)
			if !ok || img.MIMEType != c.mime || len(img.Data) > 700_000 {
				t.Fatalf("content %T %s of %d bytes, want %s of at most 700000", r.Content[1], img.MIMEType, len(img.Data), c.mime)
			}
			raw, _ := base64.StdEncoding.DecodeString(img.Data)
			if config, _, err := image.DecodeConfig(bytes.NewReader(raw)); err != nil || max(config.Width, config.Height) > 1568 {
				t.Errorf("the picture is %d×%d, %v", config.Width, config.Height, err)
			}
		})
	}
}

// TestHostilePicture checks that an answer reports pictures that are too large or broken as errors.
func TestHostilePicture(t *testing.T) {
	good := encodedPNG(t, noise(30, 20))
	for name, c := range map[string]struct{ content, wantWords string }{
		"bomb":       {header(t, good, 1_000_000, 1_000_000), "too many"},
		"just over":  {header(t, good, 50_001, 1000), "too many"},
		"no width":   {header(t, good, 0, 10), "not a valid PNG"},
		"cut off":    {good[:len(good)/2], "not a valid PNG"},
		"only magic": {"\x89PNG\r\n\x1a\n", "not a valid PNG"},
	} {
		t.Run(name, func(t *testing.T) {
			toolstest.WantText(t, show(t.Context(), c.content), true, c.wantWords, "as base64")
		})
	}
}

// header returns a PNG with the width and height in its header replaced.
func header(t *testing.T, pngBytes string, w, h uint32) string {
	t.Helper()
	b := []byte(pngBytes)
	binary.BigEndian.PutUint32(b[16:], w)
	binary.BigEndian.PutUint32(b[20:], h)
	binary.BigEndian.PutUint32(b[29:], crc32.ChecksumIEEE(b[12:29]))
	return string(b)
}
