package guest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

// host stands where URLs want a name; the connection goes where dial goes.
const host = "guest"

// connection is the one HTTP/2 connection to a guest. Many requests share it, because
// dialling is an exec in a container and costs tens of milliseconds.
type connection struct {
	transport *http.Transport

	lock chan struct{} // holds one value when free, so that waiting for a dial can be given up
	live *http.ClientConn
}

func newConnection(dial func(context.Context) (net.Conn, error)) connection {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	lock := make(chan struct{}, 1)
	lock <- struct{}{}
	return connection{lock: lock, transport: &http.Transport{
		Protocols:          protocols,
		DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialFor(ctx, dial)
		},
		HTTP2: &http.HTTP2Config{
			MaxReadFrameSize: 1 << 20,
			// A stream through a container engine can die without a word, and a guest be stopped. Together with
			// dialTimeout these are less than the minute after which clients give up.
			SendPingTimeout:  10 * time.Second,
			PingTimeout:      10 * time.Second,
			WriteByteTimeout: 60 * time.Second,
		},
	}}
}

// dialTimeout is for a guest to be joined. It is long, because a dial waits while the sandbox's memory is being saved.
const dialTimeout = 20 * time.Second

// dialFor dials under a context that ends with ctx, or after dialTimeout, while dialling, and not at all afterwards: the
// connection outlives the request that it was made for.
func dialFor(ctx context.Context, dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	limited, done := context.WithTimeout(ctx, dialTimeout)
	defer done()
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(limited, cancel)
	conn, err := dial(own)
	if !stop() {
		if err == nil {
			conn.Close()
		}
		err = context.Cause(limited)
	}
	if err != nil {
		cancel()
		return nil, err
	}
	return &dialled{Conn: conn, cancel: cancel}, nil
}

type dialled struct {
	net.Conn
	cancel context.CancelFunc
}

func (d *dialled) Close() error {
	defer d.cancel()
	return d.Conn.Close()
}

// roundTrip sends the request. One whose connection turns out to be dead is sent once more
// over a new one, if its body can be.
func (c *connection) roundTrip(req *http.Request) (*http.Response, error) {
	for again := false; ; again = true {
		live, err := c.get(req.Context())
		if err != nil {
			return nil, err
		}
		resp, err := live.RoundTrip(req)
		if err == nil || again || req.Context().Err() != nil || live.Err() == nil {
			return resp, err
		}
		if req.Body != nil {
			if req.GetBody == nil {
				return nil, err
			}
			if req.Body, err = req.GetBody(); err != nil {
				return nil, err
			}
		}
	}
}

// get returns the live connection, dialling one if there is none. Concurrent callers wait
// for the same dial.
func (c *connection) get(ctx context.Context) (*http.ClientConn, error) {
	select {
	case <-c.lock:
		defer func() { c.lock <- struct{}{} }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if c.live != nil && c.live.Err() == nil {
		return c.live, nil
	}
	live, err := c.transport.NewClientConn(ctx, "http", host+":80")
	if err != nil {
		return nil, err
	}
	c.live = live
	return live, nil
}

func (c *connection) close() {
	<-c.lock
	defer func() { c.lock <- struct{}{} }()
	if c.live != nil {
		c.live.Close()
		c.live = nil
	}
}

// repeatable is a body that can be sent again.
type repeatable []byte

func (repeatable) Read([]byte) (int, error) { return 0, errors.ErrUnsupported }
func (repeatable) Close() error             { return nil }

// inLargePieces fills what it is asked to fill. Every piece of a file costs both sides a frame, and its reader
// another to make room for more; under gVisor, where a call to the kernel is dear, that is most of a transfer.
type inLargePieces struct{ r io.Reader }

func (l inLargePieces) Read(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var more int
		more, err = l.r.Read(p[n:])
		n += more
	}
	return n, err
}

// exactBody ends after as many bytes as were promised, and not before.
type exactBody struct {
	io.Closer
	body io.Reader
	left int64
}

func (b *exactBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), b.left)]
	n, err := b.body.Read(p)
	b.left -= int64(n)
	if err == io.EOF && b.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}
