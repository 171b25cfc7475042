package sandboxd

import (
	"context"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/docker"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/bundle"
)

// newEngine returns the engine that c asks for. "auto" is docker, the only one there is.
func newEngine(c *Config, homeID string) engine.Engine {
	return newLazyEngine("docker", func(ctx context.Context) (engine.Engine, error) {
		return c.openEngine(ctx, c, homeID)
	}, c.Logger)
}

func openDocker(ctx context.Context, c *Config, homeID string) (engine.Engine, error) {
	e, err := docker.New(ctx, docker.Config{Home: homeID, Bundle: bundle.Bundle{}, Runtime: c.Runtime})
	if err != nil {
		return nil, err // not an *Engine that is nil
	}
	return e, nil
}
