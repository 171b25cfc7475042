package tools

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"

	"golang.org/x/image/draw"

	"github.com/mark3labs/mcp-go/mcp"
)

// What clients take: Claude Desktop refuses a result above 1 MiB, and models scale
// down what is longer than this side anyway.
const (
	maxImages      = 4
	maxImageSide   = 1568
	maxImagesBytes = 700_000 // of base64, in one answer
)

// What we decode: a small PNG can unfold to gigabytes.
const (
	maxPixels       = 50_000_000
	maxDecodedBytes = 200_000_000
)

// imageShop makes pictures fit. It works on two at a time, because a decoded picture
// can have 200 MB.
type imageShop struct{ slots chan struct{} }

func newImageShop() imageShop { return imageShop{slots: make(chan struct{}, 2)} }

// picture is an image as a client can show it.
type picture struct {
	content       mcp.ImageContent
	width, height int    // of the original
	note          string // what was done to it
}

// fit returns the picture within budget bytes of base64, or an error that says why it
// can't be shown. It decodes all of it: a client that passes a broken picture to its
// model's API would have a conversation that can't go on.
func (s imageShop) fit(data []byte, budget int) (picture, error) {
	config, format, err := image.DecodeConfig(bytes.NewReader(data))
	if err != nil || format != "png" && format != "jpeg" {
		return picture{}, fmt.Errorf("it is not a valid PNG or JPEG")
	}
	p := picture{width: config.Width, height: config.Height}
	if !decodable(config) {
		return p, fmt.Errorf("it has %d×%d pixels, which is too many", config.Width, config.Height)
	}
	s.slots <- struct{}{}
	defer func() { <-s.slots }()
	img, _, err := image.Decode(bytes.NewReader(data))
	if err != nil {
		return p, fmt.Errorf("it is not a valid PNG or JPEG")
	}
	mime := "image/" + format
	if max(p.width, p.height) <= maxImageSide && base64.StdEncoding.EncodedLen(len(data)) <= budget {
		p.content = imageContent(data, mime)
		return p, nil
	}
	for side := maxImageSide; side >= 196; side /= 2 {
		small := scale(img, side)
		encoders := []encoder{{"image/png", encodePNG}, {"image/jpeg", encodeJPEG(85)}, {"image/jpeg", encodeJPEG(60)}}
		if format == "jpeg" || hopeless(len(data), img, small, budget) {
			encoders = encoders[1:]
		}
		for _, encode := range encoders {
			b, err := encode.do(small)
			if err == nil && base64.StdEncoding.EncodedLen(len(b)) <= budget {
				p.content = imageContent(b, encode.mime)
				p.note = fmt.Sprintf("shown as %d×%d", small.Bounds().Dx(), small.Bounds().Dy())
				return p, nil
			}
		}
	}
	return p, fmt.Errorf("there is no room for it in this answer")
}

// decodable bounds the memory that decoding takes, before it is taken.
func decodable(c image.Config) bool {
	pixels := int64(c.Width) * int64(c.Height)
	if c.Width <= 0 || c.Height <= 0 || pixels > maxPixels {
		return false
	}
	perPixel := int64(4)
	switch c.ColorModel {
	case color.RGBA64Model, color.NRGBA64Model:
		perPixel = 8
	}
	return pixels*perPixel <= maxDecodedBytes
}

// hopeless reports that a PNG of the smaller picture would be far over the budget,
// judged by the size of the larger one: encoding it takes a second or two.
func hopeless(size int, large, small image.Image, budget int) bool {
	pixels := func(img image.Image) float64 { return float64(img.Bounds().Dx()) * float64(img.Bounds().Dy()) }
	return float64(size)*pixels(small)/pixels(large) > 2*float64(budget)
}

type encoder struct {
	mime string
	do   func(image.Image) ([]byte, error)
}

func encodePNG(img image.Image) ([]byte, error) {
	var b bytes.Buffer
	err := png.Encode(&b, img)
	return b.Bytes(), err
}

func encodeJPEG(quality int) func(image.Image) ([]byte, error) {
	return func(img image.Image) ([]byte, error) {
		// JPEG has no transparency, and what is transparent would come out black.
		flat := image.NewRGBA(img.Bounds())
		draw.Draw(flat, flat.Bounds(), image.White, image.Point{}, draw.Src)
		draw.Draw(flat, flat.Bounds(), img, img.Bounds().Min, draw.Over)
		var b bytes.Buffer
		err := jpeg.Encode(&b, flat, &jpeg.Options{Quality: quality})
		return b.Bytes(), err
	}
}

// scale returns the image with its longer side at most side.
func scale(img image.Image, side int) image.Image {
	w, h := img.Bounds().Dx(), img.Bounds().Dy()
	if max(w, h) <= side {
		return img
	}
	if w >= h {
		w, h = side, max(1, h*side/w)
	} else {
		w, h = max(1, w*side/h), side
	}
	small := image.NewRGBA(image.Rect(0, 0, w, h)) // the one kind that Scale is fast for
	draw.BiLinear.Scale(small, small.Bounds(), img, img.Bounds(), draw.Src, nil)
	return small
}

func imageContent(data []byte, mime string) mcp.ImageContent {
	return mcp.ImageContent{Type: mcp.ContentTypeImage, Data: base64.StdEncoding.EncodeToString(data), MIMEType: mime}
}
