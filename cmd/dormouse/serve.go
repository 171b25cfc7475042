package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/dormouse-sandbox/dormouse/sandboxd"
	"github.com/dormouse-sandbox/dormouse/sandboxd/home"
	"github.com/dormouse-sandbox/dormouse/server"
	"github.com/dormouse-sandbox/dormouse/server/spool"
	"github.com/dormouse-sandbox/dormouse/tools"
)

type serveCommand struct {
	Listen       string   `help:"Address to listen on." default:"127.0.0.1:8765" placeholder:"HOST:PORT"`
	SSE          bool     `name:"sse" help:"Also offer the SSE transport of older clients: /sse and /message."`
	TokenFile    string   `help:"File with the clients' tokens; see dormouse token. Default: 'token' in the home, created at the first start." type:"path"`
	AllowHost    []string `help:"Another host name that clients use for this server; can be repeated."`
	AllowOrigin  []string `help:"Origin whose web pages may call this server; can be repeated. Default: only this server's own."`
	TLSCert      string   `name:"tls-cert" help:"Certificate file, with its chain, for HTTPS." type:"path" and:"tls"`
	TLSKey       string   `name:"tls-key" help:"Private key file of the certificate." type:"path" and:"tls"`
	InsecureHTTP bool     `name:"insecure-http" help:"Allow listening beyond this machine without TLS. Anyone on the network path can read the token."`
	AllowDir     []string `help:"Folder of this machine whose files a model may copy into a sandbox with local_path; can be repeated. Default: none." type:"path"`
	Rate         float64  `help:"Largest number of requests per second for each token. 0: no limit." default:"10000"`

	MaxSandboxesPerOwner int `help:"Largest number of sandboxes, running or suspended, for each named token. 0: half of --max-sandboxes." default:"0"`
	daemonFlags
}

// Validate is called by kong before Run.
func (c *serveCommand) Validate() error {
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return fmt.Errorf("--listen %q is not HOST:PORT", c.Listen)
	}
	if !(c.Rate >= 0 && c.Rate <= 1e9) || c.MaxSandboxesPerOwner < 0 {
		return errors.New("--rate and --max-sandboxes-per-owner must not be negative")
	}
	return nil
}

func (c *serveCommand) Run(ctx context.Context) (err error) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	encryption, err := c.encryption()
	if err != nil {
		return err
	}
	// The port is opened before the slow steps below, so that the command reports a port in use at once.
	l, err := c.listen(encryption != nil)
	if err != nil {
		return err
	}
	defer l.Close()
	config := c.config()
	config.MaxSandboxesPerOwner = c.MaxSandboxesPerOwner
	metrics := server.NewMetrics(version)
	config.OnExecution = metrics.Execution
	d, err := sandboxd.Open(ctx, config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	http, err := c.server(d, metrics, encryption)
	if err != nil {
		return err
	}
	socket, err := d.Listen()
	if err != nil {
		return err
	}
	c.printConnectInfo(os.Stderr, l.Addr(), encryption != nil)
	return serveBoth(ctx, func(ctx context.Context) error { return d.Serve(ctx, socket) }, func(ctx context.Context) error { return http.Serve(ctx, l) })
}

// encryption returns the TLS configuration of the flags, or nil for plain HTTP.
func (c *serveCommand) encryption() (*tls.Config, error) {
	if c.TLSCert == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		return nil, fmt.Errorf("read --tls-cert and --tls-key: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

// listen opens the address c.Listen. If its port is 0, listen stores the port that the system chose in c.Listen. It
// refuses an address that other machines can reach, unless connections are encrypted or --insecure-http is set.
func (c *serveCommand) listen(encrypted bool) (net.Listener, error) {
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return nil, fmt.Errorf("--listen %q is not HOST:PORT", c.Listen)
	}
	refusal := fmt.Errorf("other machines can reach %s, and without TLS anyone on the network path can read the token and run code: "+
		"give --tls-cert and --tls-key, listen on 127.0.0.1, or allow it with --insecure-http", c.Listen)
	open := encrypted || c.InsecureHTTP
	if !open && !server.Loopback(c.Listen) {
		return nil, refusal
	}
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", c.Listen, err)
	}
	if !open && !server.Loopback(l.Addr().String()) { // for example if "localhost" resolves to an address of the network
		return nil, errors.Join(refusal, l.Close())
	}
	if _, port, err := net.SplitHostPort(l.Addr().String()); err == nil {
		c.Listen = net.JoinHostPort(host, port)
	}
	return l, nil
}

// server returns the HTTP server for MCP and the v1 REST API of d.
func (c *serveCommand) server(d *sandboxd.Daemon, metrics *server.Metrics, encryption *tls.Config) (*server.HTTP, error) {
	log := sandboxd.NewLogger(os.Stderr, c.LogLevel)
	tokens, err := c.tokens(log)
	if err != nil {
		return nil, err
	}
	folder, err := spool.Open(filepath.Join(c.Home, home.SpoolName), 0)
	if err != nil {
		return nil, err
	}
	waits := server.NewWaits(d.Sandboxes())
	config := tools.Config{AllowDirs: c.AllowDir, Logger: log}
	mcp := server.New(tools.New(waits, config), server.Config{Version: version, Logger: log, Metrics: metrics, Spool: folder, Resources: []tools.Resource{tools.Files(waits, config)}})
	return server.NewHTTP(mcp, server.HTTPConfig{
		Address: c.Listen, TLS: encryption, TokenFile: tokens, AllowHosts: c.AllowHost, AllowOrigins: c.AllowOrigin,
		Rate: c.Rate, SSE: c.SSE, API: d.Handler(), Sandboxes: d.Sandboxes(), Metrics: metrics, OnDrain: waits.Drain,
	})
}

func (c *serveCommand) tokens(log *slog.Logger) (*server.TokenFile, error) {
	if c.TokenFile != "" {
		return server.OpenTokenFile(c.TokenFile, log)
	}
	return server.OpenOrMakeTokenFile(c.tokenPath(), log)
}

func (c *serveCommand) tokenPath() string {
	if c.TokenFile != "" {
		return c.TokenFile
	}
	return filepath.Join(c.Home, home.TokenName)
}

// printConnectInfo prints how a client connects to the server. It never prints the token, because the output may end up
// in logs.
func (c *serveCommand) printConnectInfo(w io.Writer, addr net.Addr, encrypted bool) {
	scheme, host := "http", c.Listen
	if encrypted {
		scheme = "https"
	}
	if name, port, err := net.SplitHostPort(c.Listen); err == nil {
		if ip := net.ParseIP(name); name == "" || ip != nil && ip.IsUnspecified() {
			host = net.JoinHostPort("localhost", port)
			if len(c.AllowHost) > 0 {
				host = net.JoinHostPort(c.AllowHost[0], port)
			}
		}
	}
	url := scheme + "://" + host
	fmt.Fprintf(w, "Dormouse serves on %s\n\n", addr)
	fmt.Fprintf(w, "  MCP     %s/mcp\n", url)
	if c.SSE {
		fmt.Fprintf(w, "          %s/sse (older clients)\n", url)
	}
	fmt.Fprintf(w, "  REST    %s/v1/\n", url)
	fmt.Fprintf(w, "  token   cat %q\n\n", c.tokenPath())
	fmt.Fprintf(w, `A client's configuration (replace <token> by the token):

  {"mcpServers": {"dormouse": {"type": "http", "url": "%s/mcp",
    "headers": {"Authorization": "Bearer <token>"}}}}

`, url)
	if !encrypted && !server.Loopback(addr.String()) {
		fmt.Fprint(w, "WARNING: this is plain HTTP on an address that other machines can reach. Anyone on the network path\ncan read the token and run code. Use --tls-cert and --tls-key, or a proxy with TLS.\n\n")
	}
}

// serveBoth runs two servers until ctx ends or one of the servers returns. It then cancels the context of both servers,
// waits until both have returned, and returns their errors.
func serveBoth(ctx context.Context, a, b func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan error, 2)
	for _, serve := range []func(context.Context) error{a, b} {
		go func() {
			defer cancel()
			results <- serve(ctx)
		}()
	}
	return errors.Join(<-results, <-results)
}
