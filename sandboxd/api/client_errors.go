package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"regexp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// ErrNotRunning is wrapped by the errors of a [Client] that cannot connect because no daemon answers.
var ErrNotRunning = errors.New("the daemon is not running")

// requestError turns the error of a failed request into an error with advice for the user.
func requestError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("ask the daemon: %w", context.Cause(ctx))
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		if errors.Is(err, fs.ErrPermission) {
			return sandbox.Errorf(sandbox.Unavailable, "the Dormouse daemon belongs to another user: use a DORMOUSE_HOME of your own").WithCause(err)
		}
		return sandbox.Errorf(sandbox.Unavailable, "the Dormouse daemon is not running: the user can start it with `dormouse sandboxd`, which prints the reason if it does not start").
			WithCause(fmt.Errorf("%w: %w", ErrNotRunning, err))
	}
	return sandbox.Errorf(sandbox.Unavailable, "the connection to the Dormouse daemon was lost: try again. Executions that have started continue, and a retry with the same request_id returns them").WithCause(err)
}

// unknownName matches the message of a daemon that refuses an unknown field or parameter, and captures its name.
var unknownName = regexp.MustCompile(`unknown field "([a-z_]+)"|^"([a-z_]+)" is not a parameter here`)

// explainVersionSkew explains an error in which the daemon refuses an unknown field or parameter. The client sends only
// fields and parameters of its own version, so the daemon must have another version. explainVersionSkew returns all other
// errors unchanged.
func (c *Client) explainVersionSkew(ctx context.Context, err error) error {
	refusal, ok := errors.AsType[*sandbox.Error](err)
	if !ok || refusal.Kind != sandbox.Invalid {
		return err
	}
	found := unknownName.FindStringSubmatch(refusal.Message)
	if found == nil {
		return err
	}
	version := ""
	if info, infoErr := c.Info(ctx); infoErr == nil {
		version = " (" + sandbox.Quote(info.Version) + ")"
	}
	return sandbox.Errorf(sandbox.Invalid, "the running Dormouse daemon has another version%s, which does not support %s: restart it. "+
		"Stop it (dormouse doctor explains how), and the next command starts the installed version. Sandboxes are kept", version, found[1]+found[2]).WithCause(err)
}
