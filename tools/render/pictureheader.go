package render

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Limits of the pictures that are decoded. Without them a small file could need gigabytes or minutes.
const (
	maxPixels       = 50_000_000
	maxDecodedBytes = 200_000_000 // bytes of memory, including the memory that only the decoder needs
	maxScans        = 40          // scans of a JPEG; common encoders write 10
)

// pictureHeader contains the facts that are read from a picture without decoding it.
type pictureHeader struct {
	format        string // png or jpeg
	width, height int
	bytes         int64 // the memory that decoding needs
	scans         int   // the number of scans of a JPEG
}

// inspectPicture reads a picture's header. It returns an error if the picture is invalid or needs too much memory or
// time to decode. It does not decode the picture, so a picture that it accepts can still be broken.
func inspectPicture(data []byte) (pictureHeader, error) {
	var h pictureHeader
	var err error
	if bytes.HasPrefix(data, []byte(pngSignature)) {
		h, err = inspectPNG(data)
	} else {
		h, err = inspectJPEG(data)
	}
	if err != nil {
		return pictureHeader{}, err
	}
	pixels := int64(h.width) * int64(h.height)
	switch {
	case pixels == 0:
		return pictureHeader{}, errNotPicture
	case pixels > maxPixels:
		return h, fmt.Errorf("it has %d×%d pixels, which is too many", h.width, h.height)
	case h.bytes > maxDecodedBytes:
		return h, fmt.Errorf("its %d×%d pixels take %s to decode, which is too much", h.width, h.height, Bytes(h.bytes))
	case h.scans > maxScans:
		return h, fmt.Errorf("it has %d scans, which is too many", h.scans)
	}
	return h, nil
}

const pngSignature = "\x89PNG\r\n\x1a\n"

func inspectPNG(data []byte) (pictureHeader, error) {
	const header = len(pngSignature) + 8 // the signature, and the length and name of the first chunk
	if len(data) < header+13 || string(data[header-8:header]) != "\x00\x00\x00\x0dIHDR" {
		return pictureHeader{}, errNotPicture
	}
	ihdr := data[header:]
	width, height := binary.BigEndian.Uint32(ihdr), binary.BigEndian.Uint32(ihdr[4:])
	depth, interlaced := ihdr[8], ihdr[12] != 0
	if width > 1<<30 || height > 1<<30 {
		return pictureHeader{}, errNotPicture
	}
	h := pictureHeader{format: "png", width: int(width), height: int(height)}
	h.bytes = 4 * int64(width) * int64(height)
	if depth == 16 {
		h.bytes *= 2
	}
	if interlaced { // the decoder allocates an image for each pass, in addition to the whole image
		h.bytes *= 2
	}
	return h, nil
}

// Markers of a JPEG.
const (
	jpegSOI   = 0xd8
	jpegEOI   = 0xd9
	jpegSOS   = 0xda
	jpegRST0  = 0xd0
	jpegRST7  = 0xd7
	jpegSOF0  = 0xc0 // baseline
	jpegSOF2  = 0xc2 // progressive
	jpegAPP14 = 0xee
)

// inspectJPEG reads the segments of a JPEG. It sets the size in pixels, the memory that decoding needs, and the number
// of scans.
func inspectJPEG(data []byte) (pictureHeader, error) {
	h := pictureHeader{format: "jpeg"}
	if !bytes.HasPrefix(data, []byte{0xff, jpegSOI}) {
		return h, errNotPicture
	}
	rgb := false
	for rest := data[2:]; ; {
		at := bytes.IndexByte(rest, 0xff)
		if at < 0 || at+1 >= len(rest) {
			break
		}
		marker := rest[at+1]
		switch {
		case marker == 0xff: // a fill byte
			rest = rest[at+1:]
			continue
		case marker == 0, marker >= jpegRST0 && marker <= jpegRST7, marker == jpegSOI: // a 0xff in the data of a scan
			rest = rest[at+2:]
			continue
		}
		if marker == jpegEOI || at+4 > len(rest) {
			break
		}
		length := int(binary.BigEndian.Uint16(rest[at+2:]))
		if length < 2 || at+2+length > len(rest) {
			break
		}
		segment := rest[at+4 : at+2+length]
		rest = rest[at+2+length:]
		switch {
		case marker == jpegSOS:
			h.scans++
		case marker == jpegAPP14 && len(segment) >= 12 && bytes.HasPrefix(segment, []byte("Adobe")):
			rgb = segment[11] == 0
		case marker >= jpegSOF0 && marker <= jpegSOF2:
			if h.width != 0 {
				return h, errNotPicture
			}
			if err := h.frame(segment, marker == jpegSOF2); err != nil {
				return h, err
			}
		}
	}
	if h.width == 0 || h.scans == 0 {
		return h, errNotPicture
	}
	if rgb {
		h.bytes += 4 * int64(h.width) * int64(h.height)
	}
	return h, nil
}

// frame sets the size in pixels and the memory that decoding needs from a frame header. The decoder of a progressive
// picture keeps all coefficients in memory until the last scan.
func (h *pictureHeader) frame(segment []byte, progressive bool) error {
	if len(segment) < 6 {
		return errNotPicture
	}
	components := int(segment[5])
	if len(segment) != 6+3*components || components != 1 && components != 3 && components != 4 {
		return errNotPicture
	}
	h.height, h.width = int(binary.BigEndian.Uint16(segment[1:])), int(binary.BigEndian.Uint16(segment[3:]))
	var across, down, blocks int64 = 1, 1, 0
	for i := range components {
		horizontal, vertical := int64(segment[7+3*i]>>4), int64(segment[7+3*i]&15)
		if horizontal < 1 || horizontal > 4 || vertical < 1 || vertical > 4 {
			return errNotPicture
		}
		across, down, blocks = max(across, horizontal), max(down, vertical), blocks+horizontal*vertical
	}
	units := ((int64(h.width) + 8*across - 1) / (8 * across)) * ((int64(h.height) + 8*down - 1) / (8 * down))
	const samples, coefficient = 64, 4
	h.bytes = units * blocks * samples
	if progressive {
		h.bytes += units * blocks * samples * coefficient
	}
	if components == 4 || string([]byte{segment[6], segment[6+3*(components-1)]}) == "RB" { // the decoder converts a CMYK or RGB picture into a second image
		h.bytes += 4 * int64(h.width) * int64(h.height)
	}
	return nil
}
