package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/docker/docker/client"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// place is an address at which an engine may listen.
type place struct {
	name string // describes the place to the user, and never contains a path
	endpoint
	err error // why the place can't be tried, or nil
}

// environment contains the properties of this process that [places] depends on, so that tests can replace them.
type environment struct {
	getenv func(string) string
	home   string
	goos   string
}

// pingTimeout bounds how long the engine at one place may take to answer.
const pingTimeout = 5 * time.Second

type found struct {
	api *client.Client
	why string
}

// discover finds an engine as the Docker CLI does. It tries the usual sockets only if the user has not chosen an
// engine. The error names each place that was tried and the reason why it failed.
func discover(ctx context.Context, host string) (found, error) {
	home, _ := os.UserHomeDir() // if the user has no home folder, home is empty, and no sockets in it are tried
	var tried []string
	var causes []error
	for _, p := range places(host, environment{os.Getenv, home, runtime.GOOS}) {
		api, err := p.connect(ctx)
		if err == nil {
			return found{api, "the engine at " + p.name}, nil
		}
		if ctx.Err() != nil {
			return found{}, ctx.Err()
		}
		tried = append(tried, fmt.Sprintf("%s (%s)", p.name, shortReason(err)))
		causes = append(causes, fmt.Errorf("%s at %s: %w", p.name, p.host, err))
	}
	err := errors.Join(causes...)
	remedy := "install or start Docker, or set DOCKER_HOST to where it listens"
	if errors.Is(err, fs.ErrPermission) {
		remedy = "join the group of Docker's socket (usermod -aG docker, then log in again), or use rootless Docker"
	}
	return found{}, sandbox.Errorf(sandbox.Unavailable, "no Docker engine answers; tried %s: %s",
		strings.Join(tried, ", "), remedy).WithCause(err)
}

// places returns the places to try, best first. If the user has chosen an engine, that engine is the only place, because
// the user does not expect sandboxes on another engine.
func places(host string, env environment) []place {
	if host != "" {
		return []place{{name: "the given host", endpoint: endpoint{host: host}}}
	}
	if host := env.getenv("DOCKER_HOST"); host != "" {
		end := endpoint{host: host}
		if env.getenv("DOCKER_TLS_VERIFY") != "" {
			end.tlsDir = env.getenv("DOCKER_CERT_PATH")
		}
		return []place{{name: "DOCKER_HOST", endpoint: end}}
	}
	config := env.getenv("DOCKER_CONFIG")
	if config == "" {
		config = filepath.Join(env.home, ".docker")
	}
	name, from := env.getenv("DOCKER_CONTEXT"), "DOCKER_CONTEXT"
	if name == "" {
		var err error
		from = "the current Docker context"
		if name, err = currentContext(config); err != nil {
			return []place{{name: from, err: err}}
		}
	}
	if name != "" && name != "default" {
		end, err := contextEndpoint(config, name)
		return []place{{name: fmt.Sprintf("%s %q", from, sandbox.Quote(name)), endpoint: end, err: err}}
	}
	return usualPlaces(env)
}

// usualPlaces returns the addresses at which engines listen by default, best first.
func usualPlaces(env environment) []place {
	if env.goos == "windows" {
		return []place{
			{name: "Docker's pipe", endpoint: endpoint{host: "npipe:////./pipe/docker_engine"}},
			{name: "Docker Desktop's Linux pipe", endpoint: endpoint{host: "npipe:////./pipe/dockerDesktopLinuxEngine"}},
		}
	}
	var list []place
	add := func(name, base string, below ...string) {
		if base != "" {
			list = append(list, place{name: name, endpoint: endpoint{host: "unix://" + filepath.Join(append([]string{base}, below...)...)}})
		}
	}
	run := env.getenv("XDG_RUNTIME_DIR")
	add("the default socket", "/var/run/docker.sock")
	add("rootless Docker", run, "docker.sock")
	add("Docker Desktop", env.home, ".docker/run/docker.sock")
	add("Docker Desktop for Linux", env.home, ".docker/desktop/docker.sock")
	add("OrbStack", env.home, ".orbstack/run/docker.sock")
	add("Rancher Desktop", env.home, ".rd/docker.sock")
	add("Colima", env.home, ".colima/default/docker.sock")
	add("Colima in .config", env.home, ".config/colima/default/docker.sock")
	add("rootless Podman", run, "podman/podman.sock")
	add("Podman", "/run/podman/podman.sock")
	return list
}

// connect connects to the engine at the place, and returns a client after the engine has answered a ping. The caller
// closes the client.
func (p place) connect(ctx context.Context) (*client.Client, error) {
	if p.err != nil {
		return nil, p.err
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if err := p.checkReachable(ctx); err != nil {
		return nil, err
	}
	opts := []client.Opt{client.WithHost(p.host), client.WithAPIVersionNegotiation()}
	if p.tlsDir != "" {
		file := func(name string) string { return filepath.Join(p.tlsDir, name) }
		opts = append(opts, client.WithTLSClientConfig(file("ca.pem"), file("cert.pem"), file("key.pem")))
	}
	api, err := client.NewClientWithOpts(opts...)
	if err != nil {
		return nil, err
	}
	ping, err := api.Ping(ctx)
	if err == nil && ping.OSType != "" && ping.OSType != "linux" {
		err = fmt.Errorf("it runs %s containers, but sandboxes need Linux containers", ping.OSType)
	}
	if err != nil {
		api.Close()
		return nil, err
	}
	api.NegotiateAPIVersionPing(ping)
	return api, nil
}

// checkReachable opens and closes a connection to the engine. Its error shows why a connection fails, which the error
// of Docker's client hides. It does not check the pipes of Windows.
func (p place) checkReachable(ctx context.Context) error {
	url, err := client.ParseHostURL(p.host)
	if err != nil {
		return err
	}
	address := url.Host
	switch url.Scheme {
	case "unix", "tcp":
	case "npipe":
		return nil
	case "ssh":
		return errSSH
	default:
		return fmt.Errorf("%q is not a supported scheme: use unix, tcp or npipe", sandbox.Quote(url.Scheme))
	}
	conn, err := new(net.Dialer).DialContext(ctx, url.Scheme, address)
	if err != nil {
		return err
	}
	return conn.Close()
}

var errSSH = errors.New("ssh is not supported: forward the socket with ssh -nNT -L /tmp/docker.sock:/var/run/docker.sock, and name that")

// shortReason describes in a few words why an engine could not be reached.
func shortReason(err error) string {
	timeout, _ := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "not there"
	case errors.Is(err, fs.ErrPermission):
		return "permission denied"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "no process listens there"
	case errors.Is(err, context.DeadlineExceeded), timeout != nil && timeout.Timeout():
		return "no answer"
	case errors.Is(err, errSSH):
		return err.Error()
	}
	if _, network := errors.AsType[net.Error](err); network {
		return "cannot be reached"
	}
	if _, path := errors.AsType[*fs.PathError](err); path {
		return "cannot be read"
	}
	return sandbox.Quote(err.Error())
}
