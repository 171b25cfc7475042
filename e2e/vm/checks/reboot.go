package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

const (
	makeState = `
from sklearn.linear_model import LinearRegression
model = LinearRegression().fit([[1], [2], [3]], [3, 5, 7])
squares = (n * n for n in range(100))
f = open('log', 'w')
f.write('before ')
next(squares), next(squares), next(squares)`
	makeStateJS = "const numbers = (function*() { let n = 0; while (true) yield ++n })(); const seen = new Map([['a', numbers.next().value]]); seen.get('a')"
	goOn        = "f.write('after '); f.flush(); [round(y) for y in model.predict([[10], [20]])], next(squares), open('log').read()"
	goOnJS      = "[seen.get('a'), numbers.next().value]"
)

// known contains the ids that one boot passes to the next boot. slept is the sandbox that is suspended when the machine
// stops. ran is the sandbox that is running when the machine stops. late is an execution in ran that began after ran's last
// checkpoint.
type known struct{ slept, ran, late string }

func recall() (k known, err error) {
	text, err := os.ReadFile(ids)
	if err == nil {
		_, err = fmt.Sscan(string(text), &k.slept, &k.ran, &k.late)
	}
	return k, err
}

// keep writes the ids to a file for the next boot. It syncs only this file, not the file system, so that the power cut loses
// all data that the daemon has not synced itself.
func (k known) keep() error {
	f, err := os.Create(ids)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, k.slept, k.ran, k.late)
	return errors.Join(err, f.Sync(), f.Close())
}

// goesOn waits for a new checkpoint of a sandbox. It then starts a long execution, which is therefore not in the checkpoint,
// and returns the id of the execution.
func (s session) goesOn(id string) (string, error) {
	if _, err := s.run(id, "python", "1"); err != nil { // a new execution makes the daemon take a new checkpoint
		return "", err
	}
	began := time.Now()
	if err := eventually(s.ctx, "its state is saved", func() (bool, error) {
		v, err := s.look(id)
		return v.SavedTime.After(began), err
	}); err != nil {
		return "", err
	}
	r, err := s.Must(s.ctx, "execute_code", args{"sandbox_id": id, "code": "late = True\nimport time; time.sleep(3000)", "wait_seconds": 0})
	_, rest, found := strings.Cut(r.Text, "exec_")
	if err == nil && !found {
		err = errors.New(r.Text)
	}
	return "exec_" + strings.Fields(rest + " ")[0], err
}

func beforePowerCut(ctx context.Context) {
	check("one sandbox is suspended, and one runs and has a checkpoint", func() error {
		dropIn := "/etc/systemd/system/" + service + ".d"
		err := errors.Join(os.MkdirAll(dropIn, 0o755), os.WriteFile(dropIn+"/soon.conf",
			[]byte("[Service]\nEnvironment=DORMOUSE_IDLE_SUSPEND=30s DORMOUSE_CHECKPOINT_EVERY=2s\n"), 0o644))
		if err != nil {
			return err
		}
		for _, arg := range []string{"daemon-reload", "enable " + service, "restart " + service} {
			if _, err := command(ctx, "systemctl", strings.Fields(arg)...); err != nil {
				return err
			}
		}
		s, err := connect(ctx)
		if err != nil {
			return err
		}
		var k known
		for _, id := range []*string{&k.slept, &k.ran} {
			if *id, err = s.create(args{"ttl": "14d"}); err != nil {
				return err
			}
			if err := s.both(*id, makeState, "(0, 1, 4)", makeStateJS, "1"); err != nil {
				return err
			}
		}
		if k.late, err = s.goesOn(k.ran); err != nil {
			return err
		}
		if err := s.sleeps(k.slept); err != nil {
			return err
		}
		return k.keep()
	})
}

func afterPowerCut(ctx context.Context) {
	k, err := recall()
	if err != nil {
		say("vm: reading the results of the previous boot FAILED\n  %v", err)
		return
	}
	var s session
	check("after a power cut the service starts and lists both sandboxes", func() (err error) {
		if s, err = connect(ctx); err != nil {
			return err
		}
		slept, err := s.look(k.slept)
		if err == nil && (slept.State != "suspended" || slept.SuspendedTo != "disk" || !slept.RewoundTo.IsZero()) {
			err = fmt.Errorf("the suspended sandbox is %+v", slept)
		}
		ran, err2 := s.look(k.ran)
		if err2 == nil && (ran.State != "suspended" || ran.RewoundTo.IsZero()) {
			err2 = fmt.Errorf("the sandbox that ran is %+v", ran)
		}
		return errors.Join(err, err2)
	})
	if s.Session == nil {
		return
	}
	s.goOn("after a power cut the one that slept goes on where it was, in both languages", k.slept, "9", "before after ", 2, false)
	s.goOn("and the one that ran goes on from its saved state, and says as of when", k.ran, "9", "before after ", 2, true)
	check("an execution after the checkpoint is reported as undone", func() error {
		if _, err := s.run(k.ran, "python", "'late' in globals()", "False"); err != nil {
			return err
		}
		r, err := s.Call(ctx, "get_execution", args{"execution_id": k.late})
		if err == nil && !(strings.Contains(r.Text, "undone") && strings.Contains(r.Text, "as of")) {
			err = errors.New(r.Text)
		}
		return err
	})
	check("before a clean reboot one sandbox is suspended and one runs", func() (err error) {
		if k.late, err = s.goesOn(k.ran); err != nil {
			return err
		}
		if err := s.sleeps(k.slept); err != nil {
			return err
		}
		s.Close()
		return k.keep()
	})
}

// goOn checks that a sandbox continues from its state. It runs code in both languages that uses the variables of the sandbox
// and the open file. If rewound is true, the sandbox was rewound to a checkpoint: its kernel_epoch must have grown, and the
// answer must report the rewind.
func (s session) goOn(name, id, square, log string, number int, rewound bool) {
	check(name, func() error {
		text, err := s.run(id, "python", goOn, fmt.Sprintf("([21, 41], %s, '%s')", square, log))
		if err != nil {
			return err
		}
		if !rewound && epochOf(text) != "1" || rewound && (epochOf(text) == "1" || !strings.Contains(text, "restored as they had been at")) {
			return errors.New(text)
		}
		_, err = s.run(id, "javascript", goOnJS, fmt.Sprintf("[ 1, %d ]", number))
		return err
	})
}

func afterReboot(ctx context.Context) {
	k, err := recall()
	if err != nil {
		say("vm: reading the results of the previous boot FAILED\n  %v", err)
		return
	}
	s, err := connect(ctx)
	if err != nil {
		say("vm: the service after a clean reboot FAILED\n  %v", err)
		return
	}
	s.goOn("after a clean reboot the one that slept goes on where it was", k.slept, "16", "before after after ", 3, false)
	s.goOn("and the one that ran from its saved state", k.ran, "16", "before after after ", 3, true)
	check("deleted sandboxes leave nothing behind", func() error {
		for _, id := range []string{k.slept, k.ran} {
			if _, err := s.Must(ctx, "delete_sandbox", args{"sandbox_id": id}); err != nil {
				return err
			}
		}
		s.Close()
		if _, err := command(ctx, "systemctl", "stop", service); err != nil {
			return err
		}
		return eventuallyNothing(ctx)
	})
}

func eventuallyNothing(ctx context.Context) error {
	var last error
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := eventually(ctx, "nothing is left", func() (bool, error) { last = nothingLeft(home, ""); return last == nil, nil }); err != nil {
		return errors.Join(err, last)
	}
	return nil
}
