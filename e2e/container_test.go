//go:build unix

package e2e_test

import (
	"archive/tar"
	"bytes"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// This file tests the server in a container, as packaging/compose.yaml runs it and as a client on this machine uses it.
// e2e/container/run builds and starts the container, and passes its id in DORMOUSE_CONTAINER.

// docker runs a docker command and returns what it prints, without surrounding white space.
func docker(t *testing.T, arg ...string) string {
	t.Helper()
	out, err := exec.Command("docker", arg...).CombinedOutput()
	if err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(arg, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func container(t *testing.T) (id string) {
	t.Helper()
	if id = os.Getenv("DORMOUSE_CONTAINER"); id == "" {
		t.Skip("needs the server in a container: run e2e/container/run, which builds it and then runs this test")
	}
	return id
}

// containerToken returns the token of the server in the container. It reads the token file in the container.
func containerToken(t *testing.T, id string) string {
	t.Helper()
	archive := docker(t, "cp", id+":/var/lib/dormouse/token", "-")
	// A tar archive ends with zeros. The test appends zeros in case the output of the function docker lacks them.
	file := tar.NewReader(strings.NewReader(archive + strings.Repeat("\x00", 1024)))
	h, err := file.Next()
	if err != nil || h.FileInfo().Mode().Perm() != 0o600 {
		t.Fatalf("the token file in the container is %v (%v), want mode 0600", h, err)
	}
	text, err := io.ReadAll(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// reach waits until the server in the container answers at the published port, and returns a client for this port. It must be
// called again after a restart of the container, because the restart may change the port.
func reach(t *testing.T, id string) *served {
	t.Helper()
	s := &served{t: t}
	eventually(t, "the container answers", func() bool {
		out, err := exec.Command("docker", "port", id, "8765/tcp").Output()
		if err != nil {
			return false
		}
		s.url = "http://" + strings.TrimSpace(string(out))
		res, err := s.client.Get(s.url + "/healthz")
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	return s
}

// TestContainer checks that a client on this machine can use the server in the container, and that a sandbox still has its
// variables after a restart of the container.
func TestContainer(t *testing.T) {
	id := container(t)
	s := reach(t, id)
	me := bearer{s, containerToken(t, id)}
	answer := me.tool("create_sandbox", args{"display_name": "contained", "ttl": "1h"})
	if !strings.Contains(answer, "sbx_") {
		t.Fatalf("create_sandbox: %s", answer)
	}
	t.Cleanup(func() {
		if answer := me.tool("delete_sandbox", args{"sandbox_id": "contained"}); strings.Contains(answer, `"isError":true`) {
			t.Errorf("delete_sandbox: %s", answer)
		}
		if _, list := me.ask("GET", "/v1/sandboxes", ""); strings.Contains(list, "sbx_") {
			t.Errorf("after the sandbox was deleted the list of sandboxes is %s, want none", list)
		}
	})
	if answer := me.tool("execute_code", args{"sandbox_id": "contained", "code": "x = 41"}); !strings.Contains(answer, "succeeded") {
		t.Fatalf("execute_code: %s", answer)
	}
	docker(t, "restart", id)
	me.s.url = reach(t, id).url
	if answer := me.tool("execute_code", args{"sandbox_id": "contained", "code": "print(x + 1)"}); !strings.Contains(answer, "42") || !strings.Contains(answer, "kernel_epoch 1") {
		t.Errorf("after a restart of the container execute_code returned %s, want 42 in kernel_epoch 1", answer)
	}
}

// TestS01_Container checks which requests the server in the container accepts. The server listens on all addresses of the
// container, but must accept only requests that have the token, that have a Host header with localhost or a loopback address,
// and that have no Origin header of another site.
func TestS01_Container(t *testing.T) {
	id := container(t)
	token := containerToken(t, id)
	published := strings.TrimPrefix(reach(t, id).url, "http://")
	own := docker(t, "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", id) + ":8765"
	for _, at := range []string{published, own} {
		for _, c := range []struct {
			host, origin, token string
			status              int
		}{
			{"localhost:8765", "", token, 200},
			{"127.0.0.1:18765", "", token, 200}, // the port that a client connects to may differ from the server's port
			{"[::1]:8765", "", token, 200},
			{"localhost:8765", "http://localhost:8765", token, 200},
			{"localhost:8765", "", "", 401},
			{"localhost:8765", "", "x" + token, 401},
			{"localhost:8765", "http://localhost:8765", "", 401},
			{own, "", token, 403}, // the container's own address, which --allow-host does not allow
			{"dormouse:8765", "", token, 403},
			{"0.0.0.0:8765", "", token, 403},
			{"evil.example:8765", "", token, 403},
			{"127.0.0.1.nip.io:8765", "", token, 403},
			{"evil.example:8765", "", "", 403},
			{"localhost:8765", "http://evil.example", token, 403},
			{"localhost:8765", "http://" + own, token, 403},
			{"localhost:8765", "http://localhost:3000", token, 403},
			{"localhost:8765", "null", token, 403},
			{"evil.example:8765", "http://evil.example:8765", token, 403}, // a web page sends these headers if it uses DNS rebinding
		} {
			for _, ask := range []struct{ method, path, body string }{
				{"GET", "/v1/info", ""},
				{"POST", "/mcp", `{"jsonrpc":"2.0","id":1,"method":"ping"}`},
			} {
				r, err := http.NewRequest(ask.method, "http://"+at+ask.path, strings.NewReader(ask.body))
				if err != nil {
					t.Fatal(err)
				}
				r.Host = c.host
				r.Header.Set("Content-Type", "application/json")
				if c.origin != "" {
					r.Header.Set("Origin", c.origin)
				}
				if c.token != "" {
					r.Header.Set("Authorization", "Bearer "+c.token)
				}
				res, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				res.Body.Close()
				if res.StatusCode != c.status {
					t.Errorf("%s %s at %s, Host %q, Origin %q, token %t: status %d, want %d", ask.method, ask.path, at, c.host, c.origin, c.token == token, res.StatusCode, c.status)
				}
			}
		}
	}
}

// TestS02_Container checks that docker logs, docker inspect and docker top do not show the token. It also checks that the
// server refuses to listen on all addresses without --insecure-http, which the image's default command has.
func TestS02_Container(t *testing.T) {
	id := container(t)
	reach(t, id)
	token := containerToken(t, id)
	for _, shows := range [][]string{{"logs", id}, {"inspect", id}, {"top", id}} {
		if out := docker(t, shows...); strings.Contains(out, token) || out == "" {
			t.Errorf("docker %s prints the token, or prints nothing", shows[0])
		}
	}
	run := exec.Command("docker", "run", "--rm", "--network=none", docker(t, "inspect", "--format", "{{.Image}}", id), "serve", "--listen=0.0.0.0:8765")
	var says bytes.Buffer
	run.Stdout, run.Stderr = &says, &says
	if err := run.Run(); err == nil || !strings.Contains(says.String(), "--insecure-http") {
		t.Errorf("serve --listen=0.0.0.0:8765 in a container: %v, want an error that names --insecure-http:\n%s", err, &says)
	}
}

// TestContainerIsBare checks that the container has no more rights than packaging/compose.yaml describes, and that its only
// mounts are the volume of its home and the engine's socket.
func TestContainerIsBare(t *testing.T) {
	id := container(t)
	got := docker(t, "inspect", "--format", "{{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.Privileged}} "+
		"{{range .HostConfig.PortBindings}}{{range .}}{{.HostIp}}{{end}}{{end}} {{range .Mounts}}{{.Destination}};{{end}}", id)
	want := regexp.MustCompile(`^\[ALL\] \[no-new-privileges:true\] true false 127\.0\.0\.1 (/var/lib/dormouse;/var/run/docker\.sock;|/var/run/docker\.sock;/var/lib/dormouse;)$`)
	if !want.MatchString(got) {
		t.Errorf("the container's configuration is %s, want %s", got, want)
	}
}
