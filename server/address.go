package server

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
)

// Loopback reports whether an address to listen on is reached from this machine only.
func Loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if asciiLower(host) == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// loopbackNames are how a browser or a client on this machine calls it.
var loopbackNames = []string{"localhost", "127.0.0.1", "[::1]"}

// names are the Host and Origin headers that are let in. A page that rebinds its own
// name to this machine sends that name as its Host; a page elsewhere has its own Origin.
type names struct{ hosts, origins map[string]bool }

// newNames allows the names of this machine, that of the address (host:port) and the given ones.
func newNames(address string, tls bool, hosts, origins []string) (names, error) {
	n := names{hosts: map[string]bool{}, origins: map[string]bool{}}
	listen, port, err := net.SplitHostPort(address)
	if err != nil {
		return names{}, fmt.Errorf("listen address: %w", err)
	}
	for _, host := range loopbackNames {
		n.hosts[host] = true
		n.origins[originOf(tls, host, port)] = true
	}
	if ip, err := netip.ParseAddr(listen); listen != "" && (err != nil || !ip.IsUnspecified()) {
		hosts = append(hosts[:len(hosts):len(hosts)], listen)
	}
	for _, h := range hosts {
		if ip, err := netip.ParseAddr(h); err == nil && ip.Is6() {
			h = "[" + h + "]"
		}
		name, ok := hostname(h)
		if !ok || strings.ContainsAny(name, "*/@ ") {
			return names{}, fmt.Errorf("%q is not a host that can be allowed: write a name or an address, such as sandbox.example.com", h)
		}
		n.hosts[name] = true
	}
	for _, o := range origins {
		u, err := url.Parse(o)
		if err != nil || u.Scheme == "" || u.Host == "" || u.User != nil || strings.Contains(u.Host, "*") || asciiLower(o) != u.Scheme+"://"+asciiLower(u.Host) {
			return names{}, fmt.Errorf("%q is not an origin that can be allowed: write it as a browser does, such as https://app.example.com", o)
		}
		n.origins[asciiLower(o)] = true
	}
	return n, nil
}

func originOf(tls bool, host, port string) string {
	scheme, usual := "http", "80"
	if tls {
		scheme, usual = "https", "443"
	}
	if port == usual {
		return scheme + "://" + host
	}
	return scheme + "://" + host + ":" + port
}

// host says whether a Host header is let in. Its port does not matter: what a
// forwarded port is called outside is not known here, and a rebound name is wrong at any port.
func (n names) host(header string) bool {
	name, ok := hostname(header)
	return ok && n.hosts[name]
}

// origin says whether the one Origin header of a request is let in.
func (n names) origin(header string) bool { return n.origins[asciiLower(header)] }

// hostname returns the name in name, name:port, [address] or [address]:port.
func hostname(hostport string) (string, bool) {
	end := strings.IndexByte(hostport, ':')
	if strings.HasPrefix(hostport, "[") {
		end = strings.IndexByte(hostport, ']') + 1
		if end == 0 {
			return "", false
		}
	} else if end < 0 {
		end = len(hostport)
	}
	name, port := hostport[:end], hostport[end:]
	if port != "" && !isPort(port) {
		return "", false
	}
	return asciiLower(name), name != ""
}

func isPort(s string) bool {
	digits := strings.TrimPrefix(s, ":")
	return digits != s && digits != "" && len(digits) <= 5 && strings.Trim(digits, "0123456789") == ""
}

// asciiLower leaves other letters alone: some of them are lower-cased into ASCII.
func asciiLower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}
