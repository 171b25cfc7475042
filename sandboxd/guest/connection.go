package guest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

// host is a placeholder in URLs, which need a host name. The connection is always made with dial.
const host = "guest"

// connection is the one HTTP/2 connection to a guest. All requests share it, because dialling is an exec in a
// container and costs tens of milliseconds.
type connection struct {
	transport *http.Transport

	// lock protects live. It is a mutex that is free while the channel contains a value. It is a channel, so that a
	// caller can stop waiting for another caller's dial.
	lock chan struct{}
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
			return dialWithTimeout(ctx, dial)
		},
		HTTP2: &http.HTTP2Config{
			MaxReadFrameSize: 1 << 20,
			// A stream through a container engine can break without an error, and a guest can be stopped. The two ping
			// limits and dialTimeout together are shorter than the minute after which clients give up.
			SendPingTimeout:  10 * time.Second,
			PingTimeout:      10 * time.Second,
			WriteByteTimeout: 60 * time.Second,
		},
	}}
}

// dialTimeout bounds how long dialling a guest may take. It is long, because a dial waits while the sandbox's memory
// is being saved.
const dialTimeout = 20 * time.Second

// dialWithTimeout dials with a context that is cancelled when ctx ends or after dialTimeout, but only while dialling.
// After that, the context lives until the connection is closed, because the connection outlives the request that caused
// the dial.
func dialWithTimeout(ctx context.Context, dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
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
	return &dialledConn{Conn: conn, cancel: cancel}, nil
}

type dialledConn struct {
	net.Conn
	cancel context.CancelFunc
}

func (d *dialledConn) Close() error {
	defer d.cancel()
	return d.Conn.Close()
}

// notSentError is the error of a request that was not sent, because there was no connection.
type notSentError struct{ err error }

func (e *notSentError) Error() string { return e.err.Error() }
func (e *notSentError) Unwrap() error { return e.err }

// NotSent reports whether err, which a method of [Client] returned, means that no part of the request was sent, so
// that the guest cannot have acted on it.
func NotSent(err error) bool {
	_, ok := errors.AsType[*notSentError](err)
	return ok
}

// roundTrip sends the request. If the connection turns out to be dead, and the body can be sent again, it sends the
// request once more over a new connection.
func (c *connection) roundTrip(req *http.Request) (*http.Response, error) {
	for again := false; ; again = true {
		live, err := c.get(req.Context())
		if err != nil && !again {
			return nil, &notSentError{err}
		}
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

// get returns the live connection, and dials one if there is none. While one caller dials, other callers wait. If the
// dial fails, the next of them dials again.
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

// repeatableBody is a request body that roundTrip can send again. send replaces it with readers of its bytes, so its
// methods are never used.
type repeatableBody []byte

func (repeatableBody) Read([]byte) (int, error) { return 0, errors.ErrUnsupported }
func (repeatableBody) Close() error             { return nil }

// fullReader is a reader that fills the whole buffer in each Read. Each piece of a file costs both sides an HTTP/2
// frame, and the receiver another frame for flow control. Under gVisor, where system calls are expensive, these frames
// are most of the cost of a transfer.
type fullReader struct{ r io.Reader }

func (l fullReader) Read(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var more int
		more, err = l.r.Read(p[n:])
		n += more
	}
	return n, err
}

// exactBody returns exactly left bytes of body. If body ends before it has returned them, Read returns
// io.ErrUnexpectedEOF.
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
