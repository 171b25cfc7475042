//go:build linux

package supervisor

import (
	"os"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/kernels"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/supervisor/process"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// status measures the sandbox's usage and lists its kernels and executions.
func (s *Supervisor) status() guest.Status {
	bySession := map[int]int64{}
	var cpu time.Duration
	alive := 0
	for _, p := range process.List(s.config.UID) {
		if !p.Zombie {
			alive++
		}
		bySession[p.Session] += p.RSS
		cpu += p.CPU
	}
	if own, ok := process.Read(os.Getpid()); ok {
		cpu += own.CPU // own.CPU includes the CPU time of all processes that the guest has reaped
	}
	st := guest.Status{
		BuildID: s.buildID,
		Usage: sandbox.Usage{
			MemoryBytes:    s.watchdog.meter.Used().Total,
			CPUSeconds:     cpu.Seconds(),
			Processes:      alive,
			WorkspaceBytes: process.MountUsed(sandbox.Workspace),
		},
		Kernels:     []sandbox.Kernel{},
		Executions:  s.registry.active(),
		DroppedLate: s.dropped.late.Load(),
		DroppedBad:  s.dropped.bad.Load(),
	}
	for _, l := range kernels.Languages {
		k := s.lanes[sandbox.Language(l.Name)].describeKernel(func(session int) int64 { return bySession[session] })
		if k.Epoch > 0 || k.State != sandbox.KernelStopped || k.LastDeath != nil {
			st.Kernels = append(st.Kernels, k)
		}
	}
	return st
}
