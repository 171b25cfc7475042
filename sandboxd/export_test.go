package sandboxd

import (
	"context"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
)

// WithEngine returns a copy of the config that opens its engine with open.
func (c Config) WithEngine(open func(context.Context) (engine.Engine, error)) Config {
	c.openEngine = func(ctx context.Context, _ *Config, _ string) (engine.Engine, error) { return open(ctx) }
	return c
}

// Validate validates a config as Open does.
func (c Config) Validate() error { return c.validate() }

// Unexported functions that the tests call.
var (
	NewLazyEngine = newLazyEngine
	Harmless      = quoteUnprintable
)
