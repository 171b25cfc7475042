package guest

import (
	"crypto/sha256"
	"hash"
	"io"
	"net"
)

// digest is a reader that counts and hashes the bytes that are read from it. It hashes in its own goroutine, so that
// the transfer need not wait: hashing a byte costs more than all other work on it.
type digest struct {
	r    io.Reader
	n    int64
	sum  hash.Hash
	free chan []byte // pieces that have been hashed
	full chan []byte // pieces that have not been hashed yet
	stop chan struct{}
}

const (
	digestPieces = 4
	digestPiece  = 256 << 10
)

// newDigest returns a digest of r. The caller must close it.
func newDigest(r io.Reader) *digest {
	d := &digest{r: r, sum: sha256.New(), free: make(chan []byte, digestPieces), full: make(chan []byte, digestPieces), stop: make(chan struct{})}
	for range digestPieces {
		d.free <- nil
	}
	go d.hash()
	return d
}

func (d *digest) hash() {
	for {
		select {
		case piece := <-d.full:
			d.n += int64(len(piece))
			d.sum.Write(piece)
			d.free <- piece
		case <-d.stop:
			return
		}
	}
}

func (d *digest) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	for rest := p[:n]; len(rest) > 0; {
		select {
		case piece := <-d.free:
			size := min(len(rest), digestPiece)
			if cap(piece) < size { // no larger than needed, because most files are small
				piece = make([]byte, size)
			}
			piece = piece[:size]
			copy(piece, rest)
			rest = rest[size:]
			d.full <- piece
		case <-d.stop:
			return 0, net.ErrClosed // the digest was closed because the request has failed
		}
	}
	return n, err
}

// result returns how many bytes were read, and their hash. Reads that happen later block until the digest is closed.
func (d *digest) result() (n int64, sum []byte) {
	for range digestPieces {
		<-d.free
	}
	return d.n, d.sum.Sum(nil)
}

func (d *digest) close() { close(d.stop) }
