package docker

import (
	"context"
	"errors"
	"fmt"
	"net"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/client"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// wrap says what was being done when the engine returned err. An engine that does not
// answer is unavailable, which a person can do something about; the rest is internal,
// and so are the engine's own words, which may name paths of its host.
func wrap(doing string, err error) error {
	if err == nil || sandbox.KindOf(err) != sandbox.Internal {
		return err
	}
	if gone(err) {
		return sandbox.Errorf(sandbox.Unavailable,
			"the Docker engine does not answer: see that it runs (docker info), then try again").
			WithCause(fmt.Errorf("%s: %w", doing, err))
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// gone reports whether err is about reaching the engine, and not an answer of it. A
// context that ended is the caller's own doing.
func gone(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	_, network := errors.AsType[net.Error](err)
	return network || client.IsErrConnectionFailed(err) || cerrdefs.IsUnavailable(err)
}

func noSandbox(id sandbox.ID) *sandbox.Error {
	return sandbox.Errorf(sandbox.NotFound, "there is no running sandbox %q here", sandbox.Quote(string(id)))
}
