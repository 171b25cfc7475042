package server

import (
	"container/list"
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
)

// anonymousTimeout is how long a connection may stay open before its first request with a valid token.
const anonymousTimeout = 10 * time.Second

// conns limits the number of a server's connections. A connection is anonymous until a request with a valid token arrives on
// it. When a new connection exceeds the limit, the oldest anonymous connection is closed, so that clients without a token
// cannot lock out clients that have a token.
//
// The anonymous connections of one remote address are limited to three quarters of all connections. The limit is that high
// because all clients of a reverse proxy have the proxy's address. One named owner is limited to three quarters of all
// connections, and all named owners together to seven eighths.
type conns struct {
	net.Listener
	maximum int
	owners  *wire.Budget // counts the connections that have had a valid token

	mu        sync.Mutex
	open      int
	anonymous list.List            // the anonymous connections, each a *conn, the oldest first
	byAddress map[netip.Prefix]int // the number of anonymous connections of each remote address
}

func newConns(l net.Listener, maximum int) *conns {
	return &conns{Listener: l, maximum: maximum, owners: wire.NewBudget(int64(maximum)), byAddress: map[netip.Prefix]int{}}
}

// Accept returns the next connection that the limits admit. It closes connections that exceed a limit.
func (l *conns) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if own := l.admit(c); own != nil {
			return own, nil
		}
		c.Close()
	}
}

// admit counts a new connection and returns it. If a limit is reached, it first closes the oldest anonymous connection that
// counts against that limit; if there is no such connection, it returns nil.
func (l *conns) admit(c net.Conn) *conn {
	own := &conn{Conn: c, all: l, address: network(c.RemoteAddr())}
	for {
		l.mu.Lock()
		var evicted *conn
		switch {
		case l.byAddress[own.address] >= max(1, l.maximum-l.maximum/4):
			evicted = l.oldest(func(c *conn) bool { return c.address == own.address })
		case l.open >= l.maximum:
			evicted = l.oldest(func(*conn) bool { return true })
		default:
			l.open++
			l.byAddress[own.address]++
			own.place = l.anonymous.PushBack(own)
			own.expiry = time.AfterFunc(anonymousTimeout, own.expire)
			l.mu.Unlock()
			return own
		}
		l.mu.Unlock()
		if evicted == nil {
			return nil
		}
		evicted.Close()
	}
}

// oldest returns the oldest anonymous connection for which fits returns true, or nil. The caller must hold l.mu.
func (l *conns) oldest(fits func(*conn) bool) *conn {
	for e := l.anonymous.Front(); e != nil; e = e.Next() {
		if c := e.Value.(*conn); fits(c) {
			return c
		}
	}
	return nil
}

// network returns the part of an address that a machine cannot choose freely: a whole IPv4 address, or the first 64 bits of
// an IPv6 address. For all other kinds of addresses it returns the zero value, so that they count as one address.
func network(a net.Addr) netip.Prefix {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	prefix, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return prefix
}

// conn is a connection that conns counts.
type conn struct {
	net.Conn
	all     *conns
	address netip.Prefix
	expiry  *time.Timer

	// Guarded by all.mu.
	place  *list.Element // the connection's element in all.anonymous; nil: the connection is not anonymous, or is closed
	owner  sandbox.Owner // the owner of the last valid token
	closed bool
}

// trust records that a request with the owner's token has arrived on c. It reports false if the owner already has the maximum
// number of connections.
func (c *conn) trust(owner sandbox.Owner) bool {
	c.all.mu.Lock()
	defer c.all.mu.Unlock()
	switch {
	case c.closed:
		return true // the request fails anyway, because its connection is closed
	case c.place == nil && c.owner == owner:
		return true
	case !c.all.owners.Take(owner, 1):
		return false
	}
	if c.place == nil { // the last token was another owner's, because a proxy sends requests of several owners on c
		c.all.owners.Give(c.owner, 1)
	} else {
		c.leaveAnonymous()
	}
	c.owner = owner
	return true
}

// leaveAnonymous removes c from the anonymous connections. The caller must hold c.all.mu.
func (c *conn) leaveAnonymous() {
	c.expiry.Stop()
	c.all.anonymous.Remove(c.place)
	c.place = nil
	if c.all.byAddress[c.address]--; c.all.byAddress[c.address] == 0 {
		delete(c.all.byAddress, c.address)
	}
}

// trusted reports whether the connection is no longer anonymous.
func (c *conn) trusted() bool {
	c.all.mu.Lock()
	defer c.all.mu.Unlock()
	return c.place == nil
}

// expire closes a connection that is still anonymous.
func (c *conn) expire() {
	if !c.trusted() {
		c.Close()
	}
}

// Close closes the connection, which then no longer counts. It may be called more than once.
func (c *conn) Close() error {
	c.all.mu.Lock()
	if !c.closed {
		c.closed = true
		c.all.open--
		if c.place != nil {
			c.leaveAnonymous()
		} else {
			c.all.owners.Give(c.owner, 1)
		}
	}
	c.all.mu.Unlock()
	return c.Conn.Close()
}

type connKey struct{}

// withConn adds the connection to the contexts of its requests. It is used as [http.Server.ConnContext].
func withConn(ctx context.Context, c net.Conn) context.Context {
	if tls, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = tls.NetConn()
	}
	return context.WithValue(ctx, connKey{}, c)
}

// connOf returns the connection of a request, or nil if the server does not count connections.
func connOf(r *http.Request) *conn {
	c, _ := r.Context().Value(connKey{}).(*conn)
	return c
}
