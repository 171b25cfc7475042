package guest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"testing/iotest"
)

func TestDigest(t *testing.T) {
	random := rand.NewChaCha8([32]byte{1})
	for _, size := range []int{0, 1, digestPiece - 1, digestPiece, 5*digestPiece + 1, 20 << 20} {
		data := make([]byte, size)
		random.Read(data)
		for name, r := range map[string]io.Reader{"whole": bytes.NewReader(data), "halves": iotest.HalfReader(bytes.NewReader(data)), "data and end": iotest.DataErrReader(bytes.NewReader(data))} {
			d := newDigest(r)
			got, err := io.ReadAll(d)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %s: read %d bytes, %v, want the data", size, name, len(got), err)
			}
			n, sum := d.result()
			if want := sha256.Sum256(data); n != int64(size) || !bytes.Equal(sum, want[:]) {
				t.Errorf("%d bytes, %s: %d bytes with the sum %x, want %x", size, name, n, sum, want)
			}
			d.close()
		}
	}
}

// TestDigestThatIsClosed checks that Read of a closed digest returns an error instead of blocking.
func TestDigestThatIsClosed(t *testing.T) {
	d := newDigest(zeros{})
	d.close()
	for buffer, i := make([]byte, digestPiece), 0; ; i++ {
		if _, err := d.Read(buffer); errors.Is(err, net.ErrClosed) {
			break
		} else if i > digestPieces || err != nil {
			t.Fatalf("Read() after %d pieces = %v, want net.ErrClosed", i, err)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
