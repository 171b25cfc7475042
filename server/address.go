package server

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
)

// Loopback reports whether a listen address (host:port) can be reached only from this machine.
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

// loopbackNames are the host names with which browsers and clients on this machine address this machine.
var loopbackNames = []string{"localhost", "127.0.0.1", "[::1]"}

// names holds the allowed values of the Host and Origin headers. The Host check stops DNS rebinding: a web page that
// rebinds its own name to this machine sends that name as Host. The Origin check stops all other foreign web pages.
type names struct{ hosts, origins map[string]bool }

// newNames returns names that allow the loopback names, the host of the listen address (host:port), and the given hosts
// and origins.
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
			return names{}, fmt.Errorf("%q is not a valid host for --allow-host: write a name or an address, such as sandbox.example.com", h)
		}
		n.hosts[name] = true
	}
	for _, o := range origins {
		u, err := url.Parse(o)
		if err != nil || u.Scheme == "" || u.Host == "" || u.User != nil || strings.Contains(u.Host, "*") || asciiLower(o) != u.Scheme+"://"+asciiLower(u.Host) {
			return names{}, fmt.Errorf("%q is not a valid origin for --allow-origin: write it as a browser does, such as https://app.example.com", o)
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

// host reports whether a Host header is allowed. It ignores the port: behind port forwarding, clients use a port that
// this process cannot find out, and a rebound name is refused at every port.
func (n names) host(header string) bool {
	name, ok := hostname(header)
	return ok && n.hosts[name]
}

// origin reports whether an Origin header is allowed.
func (n names) origin(header string) bool { return n.origins[asciiLower(header)] }

// hostname returns the lower-case host of name, name:port, [address] or [address]:port. An address keeps its brackets.
// It reports false if hostport has none of these forms.
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

// asciiLower lower-cases only ASCII letters. strings.ToLower would also turn some other letters into ASCII letters, such as
// the Kelvin sign (U+212A) into k.
func asciiLower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}
