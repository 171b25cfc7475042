package engine

// MaskedPaths returns the paths that appear empty in a sandbox. The list contains all paths that Docker masks,
// because Docker's own list depends on its version, and other paths that reveal information about the host.
func MaskedPaths() []string {
	return []string{
		"/proc/acpi",
		"/proc/asound",
		"/proc/cmdline",
		"/proc/config.gz",
		"/proc/diskstats",
		"/proc/interrupts",
		"/proc/kallsyms",
		"/proc/kcore",
		"/proc/keys",
		"/proc/kmsg",
		"/proc/latency_stats",
		"/proc/modules",
		"/proc/pagetypeinfo",
		"/proc/partitions",
		"/proc/sched_debug",
		"/proc/scsi",
		"/proc/slabinfo",
		"/proc/swaps",
		"/proc/sys/kernel/random/boot_id",
		"/proc/timer_list",
		"/proc/timer_stats",
		"/proc/version",
		"/proc/vmallocinfo",
		"/proc/zoneinfo",
		"/sys/devices/virtual/dmi",
		"/sys/devices/virtual/powercap",
		"/sys/firmware",
		"/sys/fs/bpf",
		"/sys/kernel/debug",
		"/sys/kernel/notes",
		"/sys/kernel/security",
		"/sys/kernel/tracing",
		"/sys/module",
	}
}

// ReadonlyPaths returns the paths that can't be written. Those that are not masked can be read.
func ReadonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}
