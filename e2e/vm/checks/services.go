package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/dormouse-sandbox/dormouse/examples/mcpclient"
)

// services checks that sandboxes survive when the service restarts or is killed.
func services(ctx context.Context) {
	var s session
	var id string
	check("a sandbox runs outside the service's cgroup", func() (err error) {
		if s, err = connect(ctx); err != nil {
			return err
		}
		if id, err = s.create(nil); err != nil {
			return err
		}
		if err := s.both(id, "x = 1; x", "1", "var y = 1; y", "1"); err != nil {
			return err
		}
		procs, err := os.ReadFile(filepath.Join(cgroupOf(id), "cgroup.procs"))
		if err == nil && len(procs) == 0 {
			err = fmt.Errorf("the cgroup %s has no processes", cgroupOf(id))
		}
		return err
	})
	if id == "" {
		return
	}
	for _, end := range []string{"restart", "kill --signal=KILL"} {
		check("the variables survive systemctl "+end, func() (err error) {
			before, err := os.ReadFile(filepath.Join(cgroupOf(id), "cgroup.procs"))
			if err != nil {
				return err
			}
			s.Close()
			was, err := mainPID(ctx)
			if err != nil {
				return err
			}
			if _, err := command(ctx, "systemctl", append(strings.Fields(end), service)...); err != nil {
				return err
			}
			if err := eventually(ctx, "systemd starts the service again", func() (bool, error) {
				is, err := mainPID(ctx)
				return is != was && is != "0", err
			}); err != nil {
				return err
			}
			if s, err = connect(ctx); err != nil {
				return err
			}
			text, err := s.run(id, "python", "x += 1; x")
			if err == nil && epochOf(text) != "1" {
				err = fmt.Errorf("%s", text)
			}
			if err != nil {
				return err
			}
			if after, _ := os.ReadFile(filepath.Join(cgroupOf(id), "cgroup.procs")); string(after) != string(before) {
				return fmt.Errorf("the sandbox's processes were %q before and are %q, want the same", before, after)
			}
			_, err = s.run(id, "javascript", "y", "1")
			return err
		})
	}
	check("a deleted sandbox leaves nothing behind", func() error {
		if _, err := s.run(id, "python", "x", "3"); err != nil {
			return err
		}
		if _, err := s.Must(ctx, "delete_sandbox", args{"sandbox_id": id}); err != nil {
			return err
		}
		s.Close()
		return nothingLeft(home, id)
	})
}

func mainPID(ctx context.Context) (string, error) {
	out, err := command(ctx, "systemctl", "show", "--property=MainPID", "--value", service)
	return strings.TrimSpace(out), err
}

// logins checks that sandboxes survive the end of the login session that started them, even if the administrator lets
// systemd kill all processes of a session at its end (KillUserProcesses=yes). The check kills these processes itself. The
// daemon belongs to the session and is killed. The sandboxes do not belong to the session, and the next daemon finds them.
func logins(ctx context.Context) {
	const other = "/root/home"
	login := func(code string) (string, error) {
		return command(ctx, "su", "--login", "--whitelist-environment=XDG_CACHE_HOME,DORMOUSE_HOME,DORMOUSE_ENGINE", "--command",
			os.Args[0]+" login '"+code+"'")
	}
	os.Setenv("DORMOUSE_HOME", other)
	os.Setenv("DORMOUSE_ENGINE", "gvisor")
	defer os.Unsetenv("DORMOUSE_HOME")
	defer os.Unsetenv("DORMOUSE_ENGINE")
	check("a sandbox that was created in a login session survives the end of the session and of its daemon", func() error {
		out, err := login("x = 42")
		if err != nil {
			return err
		}
		if !strings.Contains(out, "session-") {
			return fmt.Errorf("systemd lists no session for the login: %s", out)
		}
		pid, err := os.ReadFile(filepath.Join(other, "sandboxd.pid"))
		if err != nil {
			return err
		}
		group, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/cgroup")
		if err != nil {
			return fmt.Errorf("the daemon did not survive the end of the session: %w", err)
		}
		if scope := filepath.Base(strings.TrimSpace(string(group))); strings.HasPrefix(scope, "session-") {
			if _, err := command(ctx, "systemctl", "kill", "--signal=KILL", scope); err != nil {
				return err
			}
		}
		out, err = login("x")
		if err == nil && !strings.Contains(out, "42") {
			err = fmt.Errorf("%s", out)
		}
		return err
	})
	check("a deleted sandbox leaves nothing behind", func() error {
		id, err := command(ctx, binary, "rm", "mine")
		if err != nil {
			return err
		}
		if pid, err := os.ReadFile(filepath.Join(other, "sandboxd.pid")); err == nil {
			_, _ = command(ctx, "kill", strings.TrimSpace(string(pid)))
		}
		return nothingLeft(other, strings.TrimSpace(id))
	})
}

// atLogin is what this command does in a login session. It runs code in the sandbox "mine", which it creates if necessary. It
// prints the cgroup of this process, which shows the login session, and the text of the answer.
func atLogin(ctx context.Context, code string) error {
	s, err := mcpclient.Start(ctx, binary, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	if r, err := s.Call(ctx, "get_sandbox", args{"sandbox_id": "mine"}); err != nil {
		return err
	} else if r.IsError {
		if _, err := s.Must(ctx, "create_sandbox", args{"display_name": "mine"}); err != nil {
			return err
		}
	}
	group, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	text, err := session{s, ctx}.run("mine", "python", code)
	fmt.Printf("%s%s\n", group, text)
	return err
}
