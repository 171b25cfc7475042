package sandbox_test

import (
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

func TestMemoryIsLimitedByTheHost(t *testing.T) {
	const gib = 1024 * sandbox.MiB
	for name, c := range map[string]struct {
		memoryMB int
		host     int64
		want     int64
		wantText string // a part of the error; empty: the request is accepted
	}{
		"the host's memory":                       {24 * 1024, 24 * gib, 24 * gib, ""},
		"more than the host has":                  {24*1024 + 1, 24 * gib, 0, "use 128 to 24576 on this machine"},
		"the absolute limit, on a small host":     {sandbox.MaxMemoryMB, 24 * gib, 0, "use 128 to 24576 on this machine"},
		"the absolute limit, on a large host":     {sandbox.MaxMemoryMB, 512 * gib, sandbox.MaxMemoryMB * sandbox.MiB, ""},
		"more than the limit, on a large host":    {sandbox.MaxMemoryMB + 1, 512 * gib, 0, "use 128 to 65536"},
		"an unknown host":                         {sandbox.MaxMemoryMB, 0, sandbox.MaxMemoryMB * sandbox.MiB, ""},
		"the default, on a host that has less":    {0, gib, gib, ""},
		"the default, on a host that has no more": {0, 2 * gib, 2 * gib, ""},
		"too little":                              {sandbox.MinMemoryMB - 1, 24 * gib, 0, "use 128 to"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := sandbox.DefaultLimits().WithRequest(sandbox.CreateRequest{MemoryMB: c.memoryMB}, 4, c.host)
			if c.wantText != "" {
				if err == nil || !strings.Contains(err.Error(), c.wantText) || sandbox.KindOf(err) != sandbox.Invalid {
					t.Errorf("got %v, want invalid and %q", err, c.wantText)
				}
				return
			}
			if err != nil || got.MemoryBytes != c.want {
				t.Errorf("got %d and %v, want %d", got.MemoryBytes, err, c.want)
			}
			if got.WorkspaceBytes > got.MemoryBytes/2 {
				t.Errorf("the workspace has %d of %d bytes, want at most half", got.WorkspaceBytes, got.MemoryBytes)
			}
		})
	}
}
