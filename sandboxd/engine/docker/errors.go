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

// wrap adds the parameter doing, a description of the failed operation, to an error of the engine. If the engine did
// not answer, the result is of kind unavailable and contains a remedy. Other errors of the engine stay of kind
// internal, because the engine's messages can contain paths of its host. An error of another kind is returned
// unchanged.
func wrap(doing string, err error) error {
	if err == nil || sandbox.KindOf(err) != sandbox.Internal {
		return err
	}
	if isUnreachable(err) {
		return sandbox.Errorf(sandbox.Unavailable,
			"the Docker engine does not answer: check that it runs (docker info), then try again").
			WithCause(fmt.Errorf("%s: %w", doing, err))
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// isUnreachable reports whether err means that the engine could not be reached, rather than that it returned an error.
// The end of a context does not count, because the caller caused it.
func isUnreachable(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	_, network := errors.AsType[net.Error](err)
	return network || client.IsErrConnectionFailed(err) || cerrdefs.IsUnavailable(err)
}
