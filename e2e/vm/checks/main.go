// Command checks tests Dormouse in the virtual machine that e2e/vm/run starts. The machine boots three times, and systemd
// runs the command as root at each boot. The command checks the features that need cgroup v2 and systemd (cgroups.go,
// services.go), and how sandboxes survive a power cut and a reboot (reboot.go). It writes a line for each check to the
// machine's second serial port.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/dormouse-sandbox/dormouse/examples/mcpclient"
)

const (
	binary  = "/usr/local/bin/dormouse"
	service = "dormouse-gvisor.service"
	home    = "/var/lib/dormouse" // the service's home
	ids     = "/root/sandboxes"   // the file through which one boot passes ids to the next boot
)

type args = mcpclient.Args

var report io.Writer = os.Stdout

func main() {
	if len(os.Args) == 3 && os.Args[1] == "login" {
		if err := atLogin(context.Background(), os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if port, err := os.OpenFile("/dev/ttyS1", os.O_WRONLY, 0); err == nil {
		report = port
	}
	ctx, cancel := context.WithTimeout(context.Background(), 80*time.Minute)
	defer cancel()
	line, _ := os.ReadFile("/proc/cmdline")
	switch {
	case strings.Contains(string(line), "dormouse.boot=1"):
		if !strings.Contains(string(line), "dormouse.part=reboot") {
			machine(ctx)
			limits(ctx)
			services(ctx)
			logins(ctx)
			engineTests(ctx)
		}
		beforePowerCut(ctx)
		say("now cut the power")
	case strings.Contains(string(line), "dormouse.boot=2"):
		afterPowerCut(ctx)
		say("now rebooting")
		_ = exec.Command("systemctl", "reboot").Run()
	case strings.Contains(string(line), "dormouse.boot=3"):
		afterReboot(ctx)
		say("that is all")
		_ = exec.Command("systemctl", "poweroff").Run()
	}
}

func say(format string, a ...any) { fmt.Fprintf(report, format+"\n", a...) }

// check runs a function as a check with a name, and writes a line with the result to the report.
func check(name string, do func() error) {
	began := time.Now()
	if err := do(); err != nil {
		say("vm: %-70s FAILED\n  %s", name, strings.ReplaceAll(err.Error(), "\n", "\n  "))
		return
	}
	say("vm: %-70s ok %6.1f s", name, time.Since(began).Seconds())
}

// command runs a program and returns its output, stdout and stderr combined. An error contains the output too.
func command(ctx context.Context, name string, arg ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, arg...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w: %s", name, strings.Join(arg, " "), err, out)
	}
	return string(out), nil
}

// eventually calls a function every 200 ms until it returns true or an error. If that does not happen within 5 minutes,
// eventually returns an error, in which the parameter what describes the awaited condition. The limit is this long because
// the machine may be emulated and slow.
func eventually(ctx context.Context, what string, ok func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for {
		done, err := ok()
		if err != nil || done {
			return err
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("not within 5 minutes: %s", what)
		}
	}
}

// session is an MCP session whose calls all use one context.
type session struct {
	*mcpclient.Session
	ctx context.Context
}

// connect opens a session with the service's daemon. It first waits until the daemon answers, because otherwise the session
// would start a second daemon.
func connect(ctx context.Context) (session, error) {
	err := eventually(ctx, "the service answers", func() (bool, error) {
		_, err := command(ctx, binary, "ls", "--home", home)
		return err == nil, nil
	})
	if err != nil {
		return session{}, err
	}
	s, err := mcpclient.Start(ctx, binary, []string{"DORMOUSE_HOME=" + home})
	return session{s, ctx}, err
}

func (s session) create(a args) (string, error) {
	r, err := s.Must(s.ctx, "create_sandbox", a)
	id, _ := r.Structured["id"].(string)
	return id, err
}

var executionID = regexp.MustCompile(`exec_\w+`)

// run runs code in a sandbox, waits until the code ends, and returns the text of the answer. It returns an error if the
// answer lacks one of the given words.
func (s session) run(id, language, code string, words ...string) (string, error) {
	ask := args{"sandbox_id": id, "language": language, "code": code, "wait_seconds": 300, "request_id": rand.Text()}
	r, err := s.Must(s.ctx, "execute_code", ask)
	// On an emulated machine, importing scikit-learn takes minutes and resuming a sandbox can exceed its time limit. So run
	// waits again or tries again, at most ten times.
	for range 10 {
		if err != nil && strings.Contains(err.Error(), "nothing of it is lost: try again") {
			r, err = s.Must(s.ctx, "execute_code", ask)
		} else if err == nil && strings.Contains(r.Text, "is still running after") {
			r, err = s.Must(s.ctx, "get_execution", args{"execution_id": executionID.FindString(r.Text), "offset": 0, "wait_seconds": 300})
		}
	}
	for _, w := range words {
		if err == nil && !strings.Contains(r.Text, w) {
			err = fmt.Errorf("the answer does not contain %q:\n%s", w, r.Text)
		}
	}
	return r.Text, err
}

// both runs code in Python, whose answer must contain inPython, and code in JavaScript, whose answer must contain inJavascript.
func (s session) both(id string, python, inPython, javascript, inJavascript string) error {
	if _, err := s.run(id, "python", python, inPython); err != nil {
		return err
	}
	_, err := s.run(id, "javascript", javascript, inJavascript)
	return err
}

// view contains the fields of get_sandbox's result that the checks use.
type view struct {
	State       string    `json:"state"`
	SuspendedTo string    `json:"suspended_to"`
	SavedTime   time.Time `json:"saved_time"`
	RewoundTo   time.Time `json:"rewound_to"`
}

func (s session) look(id string) (v view, err error) {
	r, err := s.Must(s.ctx, "get_sandbox", args{"sandbox_id": id})
	if err != nil {
		return v, err
	}
	data, err := json.Marshal(r.Structured)
	if err != nil {
		return v, err
	}
	return v, json.Unmarshal(data, &v)
}

func (s session) sleeps(id string) error {
	return eventually(s.ctx, "the sandbox sleeps", func() (bool, error) {
		v, err := s.look(id)
		return v.State == "suspended", err
	})
}

var epochWords = regexp.MustCompile(`kernel_epoch (\d+)`)

func epochOf(text string) string {
	if m := epochWords.FindStringSubmatch(text); m != nil {
		return m[1]
	}
	return "not said"
}

// cgroupOf returns the path of a sandbox's cgroup.
func cgroupOf(id string) string { return filepath.Join("/sys/fs/cgroup/dormouse", id) }

// nothingLeft returns an error if a process, cgroup, mount or folder of the sandbox id is left. If id is empty, nothingLeft
// checks all sandboxes. The daemon must then have stopped, because a running daemon also has sandboxes that no client
// created: the pooled sandbox, and the sandbox from which the daemon makes a snapshot.
func nothingLeft(home, id string) error {
	var left []string
	for _, pattern := range []string{"/sys/fs/cgroup/dormouse/" + cmp.Or(id, "sbx_"), home + "/gvisor/sandboxes/" + id, home + "/gvisor/sandboxes/." + id, home + "/gvisor/runsc/*" + id,
		"/run/runsc-*" + id, "/tmp/runsc-*" + id} {
		found, _ := filepath.Glob(pattern + "*")
		left = append(left, found...)
	}
	if mounts, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(mounts), home) && strings.Contains(string(mounts), id) {
		left = append(left, "a mount below "+home)
	}
	programs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range programs {
		line, _ := os.ReadFile(file)
		if strings.HasPrefix(filepath.Base(strings.SplitN(string(line), "\x00", 2)[0]), "runsc") && strings.Contains(string(line), id) {
			left = append(left, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("still on the machine: %s", strings.Join(left, "\n"))
	}
	return nil
}
