package engine

// MaskedPaths read as nothing. It is Docker's own list, which differs by version, and
// what else tells of the host.
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

// ReadonlyPaths can be read where they are not masked, and never written.
func ReadonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}
