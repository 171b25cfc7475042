package sandboxd

import (
	"context"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
)

// WithEngine returns the config with another way to open an engine.
func (c Config) WithEngine(open func(context.Context) (engine.Engine, error)) Config {
	c.openEngine = func(ctx context.Context, _ *Config, _ string) (engine.Engine, error) { return open(ctx) }
	return c
}

// Validate checks a config as Open does.
func (c Config) Validate() error { return c.validate() }

// What the tests look into.
var (
	NewLazyEngine = newLazyEngine
	Harmless      = harmless
)
