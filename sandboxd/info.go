package sandboxd

import (
	"context"
	"slices"

	"github.com/dormouse-sandbox/dormouse/sandboxd/api"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// info returns the description of the daemon for /v1/info.
func (d *Daemon) info(context.Context) api.Info {
	e := d.engine.Info()
	limits := api.FixedLimits()
	limits.Sandboxes = d.cfg.MaxSandboxes
	return api.Info{
		Version:   d.cfg.Version,
		Engine:    e.Name,
		EngineVer: e.Version,
		Runtime:   e.Runtime,
		Isolation: e.Isolation,
		Why:       e.Why,
		Warnings:  slices.Concat(e.Warnings, d.manager.Warnings()),

		Replaceable: d.cfg.OnDemand && d.engine.failed(),

		Languages: sandbox.Languages,
		Defaults: api.Defaults{
			Image:  d.cfg.Image,
			TTL:    d.cfg.TTL,
			Limits: sandbox.DefaultLimits(),
		},
		Limits: limits,
	}
}
