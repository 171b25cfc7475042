//go:build unix

package e2e_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/dormouse-sandbox/dormouse/image"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/rootfs"
)

// needsGvisor skips a test if the gvisor engine can't run on this machine or lacks the sandbox image.
func needsGvisor(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs an engine, so it is left out with -short")
	}
	if here := engineHere("gvisor"); !here.OK || !here.Image {
		skipMissing(t, "gvisor", here.Why)
	}
}

// program copies the dormouse binary to a new folder that does not contain runsc, and returns the path of the new binary.
func program(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dormouse")
	if os.Link(binary, path) == nil {
		return path
	}
	if out, err := exec.Command("cp", binary, path).CombinedOutput(); err != nil {
		t.Fatalf("copy dormouse: %v: %s", err, out)
	}
	return path
}

// runWithEnv runs a dormouse binary, whose path is program. It adds the variables in env to the home's environment. An entry
// with an empty value removes the variable.
func (h *home) runWithEnv(t *testing.T, program string, env []string, arg ...string) (output string, status int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, arg...)
	cmd.Dir = h.cwd
	for _, kv := range slices.Concat(os.Environ(), h.env, env) {
		name, _, _ := strings.Cut(kv, "=")
		cmd.Env = slices.DeleteFunc(cmd.Env, func(old string) bool { return strings.HasPrefix(old, name+"=") })
		if kv != name+"=" {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatalf("%s %v: %v", program, arg, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// TestCommandsWorkAfterAFailedStart checks that, if a command fails because no engine works, the next command works as soon as
// the cause is fixed. The failed command must not bind the home to an engine. If it started a daemon, the next command must
// not use that daemon with the old settings and environment.
func TestCommandsWorkAfterAFailedStart(t *testing.T) {
	t.Parallel()
	needsGvisor(t)
	runsc, err := filepath.EvalSymlinks(filepath.Join(filepath.Dir(binary), "runsc"))
	if err != nil {
		t.Fatal(err)
	}
	// The test cases need the gvisor engine. If a Docker engine answers at its default address, auto would choose docker, so the
	// test then selects gvisor.
	auto := "DORMOUSE_ENGINE=auto"
	if out, _ := (&home{t: t}).runWithEnv(t, binary, []string{"DOCKER_HOST="}, "doctor", "--engine-only", "--engine", "docker", "--json"); strings.Contains(out, `"ok": true`) {
		t.Log("not tested with --engine auto, because a Docker engine answers at its default address")
		auto = "DORMOUSE_ENGINE=gvisor"
	}
	hidden := []string{"PATH=/nonexistent", "DOCKER_HOST=", auto}
	for _, c := range []struct {
		name   string
		broken []string // the environment of the first command
		fixed  []string // the environment of the second command
		repair func(t *testing.T, program string)
		says   string   // the first command's output must contain this text
		args   []string // additional arguments of the second command
		kill   bool     // whether the test kills the daemon between the two commands
	}{
		{name: "no runsc", broken: hidden, fixed: hidden, says: "runsc",
			repair: func(t *testing.T, program string) {
				if err := os.Symlink(runsc, filepath.Join(filepath.Dir(program), "runsc")); err != nil {
					t.Fatal(err)
				}
			}},
		{name: "no runsc, and the daemon is killed", kill: true, broken: hidden, fixed: []string{"PATH=" + filepath.Dir(runsc), "DOCKER_HOST=", auto}, says: "runsc"},
		{name: "no runsc in the first command's PATH", broken: hidden, fixed: []string{"PATH=" + filepath.Dir(runsc), "DOCKER_HOST=", auto}, says: "runsc"},
		{name: "no home and no cache folder", broken: []string{"PATH=" + filepath.Dir(runsc), "HOME=", "XDG_CACHE_HOME=", "DOCKER_HOST=", auto},
			fixed: []string{"PATH=" + filepath.Dir(runsc), "DOCKER_HOST=", auto}, says: "HOME"},
		{name: "a Docker engine that does not answer", broken: []string{"PATH=" + filepath.Dir(runsc), "DOCKER_HOST=unix:///nonexistent/docker.sock", "DORMOUSE_ENGINE=auto"},
			fixed: []string{"PATH=" + filepath.Dir(runsc), "DOCKER_HOST=", auto}, says: "Docker"},
		{name: "an engine that does not work, then --engine", broken: []string{"PATH=" + filepath.Dir(runsc), "DOCKER_HOST=unix:///nonexistent/docker.sock", "DORMOUSE_ENGINE=docker"},
			fixed: []string{"PATH=" + filepath.Dir(runsc), "DOCKER_HOST=unix:///nonexistent/docker.sock"}, args: []string{"--engine", "gvisor"}, says: "Docker"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h, dormouse := newHome(t), program(t)
			if output, status := h.runWithEnv(t, dormouse, c.broken, "exec", "-e", "print(6 * 7)"); status != 125 || !strings.Contains(output, c.says) {
				t.Fatalf("the first command: exit status %d, output %q; want 125 and %q", status, output, c.says)
			}
			if c.kill {
				h.stop(syscall.SIGKILL)
			}
			if c.repair != nil {
				c.repair(t, dormouse)
			}
			output, status := h.runWithEnv(t, dormouse, c.fixed, append([]string{"exec", "-e", "print(6 * 7)"}, c.args...)...)
			if status != 0 || output != "42\n" {
				t.Errorf("the command after the repair: exit status %d, output %q; want 0 and 42", status, output)
			}
		})
	}
}

// TestHomeKeepsTheEngineOfItsSandboxes checks that a home with sandboxes keeps the engine of these sandboxes. A later command
// that selects another engine must fail, and with auto a later command must use the engine of the sandboxes.
func TestHomeKeepsTheEngineOfItsSandboxes(t *testing.T) {
	t.Parallel()
	needsGvisor(t)
	h := newHome(t, "DORMOUSE_ENGINE=gvisor")
	s := h.connect(t)
	id := s.create(nil)
	s.run(id, "x = 42")
	s.Close()
	h.stop(syscall.SIGTERM)

	elsewhere := []string{"DORMOUSE_ENGINE=docker"}
	output, status := h.runWithEnv(t, binary, elsewhere, "exec", "-s", id, "-e", "print(x)")
	if status != 125 || !strings.Contains(output, "gvisor") || !strings.Contains(output, "DORMOUSE_HOME") {
		t.Errorf("exec with DORMOUSE_ENGINE=docker: exit status %d, output %q; want 125 and the engine of the sandboxes", status, output)
	}
	// In a home without sandboxes, auto would choose a Docker engine that answers. With the second environment it would fail,
	// because auto does not try gvisor if DOCKER_HOST is set.
	for _, env := range [][]string{
		{"DORMOUSE_ENGINE=auto"},
		{"DORMOUSE_ENGINE=auto", "DOCKER_HOST=unix:///nonexistent/docker.sock"},
	} {
		if output, status := h.runWithEnv(t, binary, env, "exec", "-s", id, "-e", "print(x)"); status != 0 || output != "42\n" {
			t.Errorf("exec with %v: exit status %d, output %q; want 0 and 42", env, status, output)
		}
		h.stop(syscall.SIGTERM)
	}
}

// TestSandboxesWorkBehindSymbolicLinks checks that sandboxes work if the paths of the cache, the binary or the home contain
// symbolic links. gVisor itself opens no path that contains a symbolic link.
func TestSandboxesWorkBehindSymbolicLinks(t *testing.T) {
	t.Parallel()
	images, err := image.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	link := func(t *testing.T, to string) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), "link")
		if err := os.Symlink(to, path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tested := map[string]bool{}
	for _, p := range platforms(t) {
		// One runtime of the Docker engine is enough, because no path of the cache, the binary or the home reaches the runtime.
		if engine := p.env[0]; tested[engine] {
			continue
		} else {
			tested[engine] = true
		}
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			outer := t.TempDir()
			real := filepath.Join(outer, "real")
			if err := os.Mkdir(real, 0o700); err != nil {
				t.Fatal(err)
			}
			all := link(t, outer)
			for _, c := range []struct {
				name, program, in, home string
				env                     []string
			}{
				{name: "the cache, the program's folder and the home", program: filepath.Join(link(t, filepath.Dir(binary)), "dormouse"),
					home: filepath.Join(real, "one"), env: []string{"XDG_CACHE_HOME=" + link(t, filepath.Dir(images)), "DORMOUSE_HOME=" + filepath.Join(link(t, real), "one")}},
				{name: "the state folder and a folder above it", program: binary,
					home: filepath.Join(real, "dormouse"), env: []string{"DORMOUSE_HOME=", "XDG_STATE_HOME=" + filepath.Join(all, "real")}},
				{name: "a relative home, and a relative XDG_CACHE_HOME, which is ignored", program: binary, in: real,
					home: filepath.Join(real, "two"), env: []string{"DORMOUSE_HOME=./two", "XDG_CACHE_HOME=cache"}},
			} {
				t.Run(c.name, func(t *testing.T) {
					h := newHome(t, p.env...)
					h.cwd = c.in
					for range 2 { // the second command must also work with the files that the first command made
						if output, status := h.runWithEnv(t, c.program, c.env, "exec", "-e", "print(6 * 7)"); status != 0 || output != "42\n" {
							t.Errorf("exec: exit status %d, output %q; want 0 and 42", status, output)
						}
					}
					if output, status := h.runWithEnv(t, c.program, c.env, "doctor"); status != 0 || !strings.Contains(output, "✓ sandbox") {
						t.Errorf("doctor: exit status %d, want 0 and a sandbox that works:\n%s", status, output)
					}
					(&home{t: t, dir: c.home}).stop(syscall.SIGTERM)
				})
			}
		})
	}
}

// TestDoctorUsesASandbox checks that doctor opens the engine and also uses a sandbox, and that its output names the step that
// failed.
func TestDoctorUsesASandbox(t *testing.T) {
	t.Parallel()
	needsGvisor(t)
	unpacked, err := rootfs.DefaultDir()
	if err != nil {
		t.Fatal(err)
	}
	cache := t.TempDir()
	refs, err := filepath.Glob(filepath.Join(unpacked, "refs", "*.json"))
	if err != nil || len(refs) == 0 {
		t.Fatalf("no image is unpacked: %v", err)
	}
	own := filepath.Join(cache, "dormouse", "unpacked")
	// The new cache has the names of all images, each with an empty root file system.
	for _, ref := range refs {
		text, err := os.ReadFile(ref)
		if err != nil {
			t.Fatal(err)
		}
		var img struct{ Digest string }
		if err := json.Unmarshal(text, &img); err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{filepath.Join(own, "refs"), filepath.Join(own, img.Digest, "rootfs")} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(own, "refs", filepath.Base(ref)), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h := newHome(t, "DORMOUSE_ENGINE=gvisor", "XDG_CACHE_HOME="+cache)
	output, status := h.runWithEnv(t, binary, nil, "doctor")
	if status != 1 || !strings.Contains(output, "✗ sandbox") || !strings.Contains(output, "run a statement") || !strings.Contains(output, "python3") {
		t.Errorf("doctor with an empty image: exit status %d, want 1, the step that failed and its reason:\n%s", status, output)
	}
	if output, status := h.runWithEnv(t, binary, nil, "doctor", "--engine-only"); status != 0 {
		t.Errorf("doctor --engine-only: exit status %d, want 0: %s", status, output)
	}
	if left, _ := filepath.Glob(filepath.Join(h.dir, "trial-*")); len(left) != 0 {
		t.Errorf("doctor did not remove %v", left)
	}
	h.env = h.env[:2] // removes XDG_CACHE_HOME, so that doctor uses the real cache
	output, status = h.runWithEnv(t, binary, nil, "doctor")
	if status != 0 || !strings.Contains(output, "✓ sandbox") {
		t.Errorf("doctor: exit status %d, want 0 and a sandbox that works:\n%s", status, output)
	}
	if h.pid() != 0 {
		t.Error("doctor started the home's daemon")
	}
}
