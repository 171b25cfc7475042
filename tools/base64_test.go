package tools

import (
	"bytes"
	"encoding/base64"
	"io"
	"strings"
	"testing"

	simd "github.com/emmansun/base64"
)

// FuzzBase64 compares base64Reader and the encoder with package encoding/base64, which is a dozen times slower. The
// encoder must return the same text. base64Reader must accept all text that encoding/base64 accepts, and return the
// same bytes, wherever there are invalid characters or line breaks. It may accept more: mixed alphabets, white space,
// and the beginning of a data: URI.
func FuzzBase64(f *testing.F) {
	f.Add([]byte("QUJD"), uint8(40))
	f.Add([]byte("-_-_\r\n+/=="), uint8(1))
	f.Add([]byte("data:;base64,AAAA"), uint8(0))
	f.Add([]byte("AAAA\x80AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"), uint8(3))
	f.Fuzz(func(t *testing.T, s []byte, times uint8) {
		s = bytes.Repeat(s, int(times)+1) // the decoder uses its fast path only for long input
		encoded := make([]byte, simd.StdEncoding.EncodedLen(len(s)))
		simd.StdEncoding.Encode(encoded, s)
		if want := base64.StdEncoding.EncodeToString(s); string(encoded) != want {
			t.Fatalf("%q is encoded as %q, want %q", s, encoded, want)
		}
		if got, err := io.ReadAll(newBase64Reader(bytes.NewReader(encoded))); err != nil || !bytes.Equal(got, s) {
			t.Fatalf("%q comes back as %q, %v", s, got, err)
		}
		got, err := io.ReadAll(newBase64Reader(bytes.NewReader(s)))
		for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
			want, wantErr := encoding.DecodeString(string(s))
			if wantErr == nil && (err != nil || !bytes.Equal(got, want)) {
				t.Fatalf("%q is decoded as %q, %v, want %q", s, got, err, want)
			}
		}
		if err != nil {
			return
		}
		text := string(s)
		if strings.HasPrefix(text, "data:") {
			_, text, _ = strings.Cut(text, ",")
		}
		text = strings.NewReplacer(" ", "", "\t", "", "\r", "", "\n", "", "=", "", "-", "+", "_", "/").Replace(text)
		if want, err := base64.RawStdEncoding.DecodeString(text); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%q is decoded as %q, and is none, or %q: %v", s, got, want, err)
		}
	})
}
