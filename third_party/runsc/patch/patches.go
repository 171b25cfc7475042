package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
)

// patch replaces the text old by the text new in a file of gVisor's sources. The file must contain old exactly once.
// Otherwise the patch was made for another version of gVisor, and apply fails.
type patch struct{ file, old, new string }

var patches = []patch{
	// gVisor writes the two halves of a checkpoint concurrently: the memory and the state of the kernel. While the
	// first half scans the pages, it holds a lock. Without this patch, the second half acquires the same lock for each
	// mapping, only to read a flag, and so waits for the first half. The flag is set before anything reads it, so
	// reading it needs no lock.
	{
		file: "pkg/sentry/pgalloc/save_restore.go",
		old: `func (f *MemoryFile) IsSavable() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.savable
}`,
		new: `func (f *MemoryFile) IsSavable() bool {
	return f.savable // set before the first read
}`,
	},

	// During a small checkpoint the garbage collector should not run: it would find little to free, because the
	// objects that are encoded are in use. In the first second of a sandbox, the GC percentage is 400 already
	// (third_party/runsc/main.go). With that percentage, a large checkpoint, of a sandbox with many files, would
	// allocate several times the memory of the objects and not free it. That memory counts towards the limit of the
	// sandbox's cgroup, and reaching this limit could end the sandbox.
	{
		file: "runsc/boot/restore.go",
		old: `func (l *Loader) save(o *control.SaveOpts) (err error) {
`,
		new: `func (l *Loader) save(o *control.SaveOpts) (err error) {
	const large = 16 << 20
	percent := 400
	heap := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	if metrics.Read(heap); heap[0].Value.Uint64() > large {
		percent = 50
		defer gc.FreeOSMemory()
	}
	if usual := gc.SetGCPercent(percent); usual != percent {
		defer gc.SetGCPercent(usual)
	}
`,
	},
	{
		file: "runsc/boot/restore.go",
		old: `	"os"
	"strconv"
`,
		new: `	"os"
	gc "runtime/debug"
	"runtime/metrics"
	"strconv"
`,
	},

	// If a checkpoint has left much garbage, the collector runs before the tasks of the sandbox continue, because
	// sysinfo might count the garbage as used memory (see heapAbove below).
	{
		file: "pkg/sentry/state/state.go",
		old: `	defer func() {
		k.Unpause()
`,
		new: `	defer func() {
		const large = 128 << 20
		heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		if metrics.Read(heap); heap[0].Value.Uint64() > large {
			debug.FreeOSMemory()
		}
		k.Unpause()
`,
	},
	{
		file: "pkg/sentry/state/state.go",
		old: `import (
`,
		new: `import (
	"runtime/debug"
	"runtime/metrics"
`,
	},

	// The encoder's maps are allocated with space for the objects of a small sandbox (about 10,000), so that the maps
	// need not grow.
	{
		file: "pkg/state/state.go",
		old: `		pending:        make(map[objectID]*objectEncodeState),
		encodedStructs: make(map[reflect.Value]*wire.Struct),
`,
		new: `		pending:        make(map[objectID]*objectEncodeState, 1<<14),
		encodedStructs: make(map[reflect.Value]*wire.Struct, 1<<14),
`,
	},

	// Without this patch, the encoder measures the time for each type, and reads the clock twice for each object.
	// Nothing uses these times, so the patch removes the reads of the clock.
	{
		file: "pkg/state/stats.go",
		old: `	now := gohacks.Nanotime()
`,
		new: `	now := s.last
`,
	},

	// The decoder reads numbers byte by byte. Without this patch, it calls Read twice for each byte. With it, the
	// decoder calls ReadByte if the reader has this method.
	{
		file: "pkg/state/wire/wire.go",
		old: `func (r *Reader) readByte() byte {
`,
		new: `func (r *Reader) readByte() byte {
	if s, ok := r.Reader.(io.ByteReader); ok {
		b, err := s.ReadByte()
		if err != nil {
			panic(err)
		}
		return b
	}
`,
	},
	{
		file: "pkg/compressio/nocompressio.go",
		old: `// Read implements io.Reader.Read.
func (r *SimpleReader) Read(`,
		new: `// ReadByte implements io.ByteReader.
func (r *SimpleReader) ReadByte() (byte, error) {
	if r.h == nil {
		return r.bin.ReadByte()
	}
	var b [1]byte
	_, err := io.ReadFull(r, b[:])
	return b[0], err
}

// Read implements io.Reader.Read.
func (r *SimpleReader) Read(`,
	},

	// For each mapped file gVisor keeps, per range of the file, the set of mappings of that range. Without this patch,
	// the exit of a process (munmap) removes a mapping and merges neighbouring ranges, and the next fork or exit
	// splits them again. Each merge or split copies the whole set, so its time grows with the number of processes that
	// map the file: 512 processes took 40 s to end. With this patch, ranges with more than 8 mappings are not merged.
	// Merging only saves memory.
	{
		file: "pkg/sentry/memmap/mapping_set.go",
		old: `	if len(val1) != len(val2) {
		return nil, false
	}

	merged := make(`,
		new: `	const many = 8
	if len(val1) != len(val2) || len(val1) > many {
		return nil, false
	}

	merged := make(`,
	},

	// If RLIMIT_NPROC does not allow a fork, the fork fails before the memory of the process is copied, and not
	// afterwards. Otherwise a fork bomb that has reached its limit would use all CPU time for copies, and killing it
	// would take long.
	{
		file: "pkg/sentry/kernel/task_clone.go",
		old: `	// Pull task registers and FPU state, a cloned task will inherit the
`,
		new: `	counters := t.userCounters
	if uid := t.Credentials().RealKUID; counters.uid != uid {
		counters = t.k.GetUserCounters(uid)
	}
	if counters.atRLimitNProc(t) {
		return 0, nil, linuxerr.EAGAIN
	}

	// Pull task registers and FPU state, a cloned task will inherit the
`,
	},

	{
		file: "pkg/sentry/kernel/kernel.go",
		old: `// decRLimitNProc decrements the rlimitNProc counter.
`,
		new: `// atRLimitNProc reports whether incRLimitNProc would fail.
func (uc *UserCounters) atRLimitNProc(ctx context.Context) bool {
	creds := auth.CredentialsFromContext(ctx)
	return uc.rlimitNProc.Load() >= limits.FromContext(ctx).Get(limits.ProcessCount).Cur &&
		!creds.HasRootCapability(linux.CAP_SYS_ADMIN) && !creds.HasRootCapability(linux.CAP_SYS_RESOURCE)
}

// decRLimitNProc decrements the rlimitNProc counter.
`,
	},

	// The guest measures the sandbox's memory with sysinfo. With this patch, the result of sysinfo also includes the
	// part of gVisor's own heap above 128 MiB. The heap contains the buffers of sockets and pipes. If sysinfo did not
	// include them, code could fill them until the cgroup's limit ends the sandbox.
	{
		file: "pkg/sentry/syscalls/linux/sys_sysinfo.go",
		old: `	totalUsage := mfUsage + memStats.Mapped
`,
		new: `	totalUsage := mfUsage + memStats.Mapped
	heap := heapAbove(128<<20, totalUsage)
	totalUsage += heap
`,
	},
	{
		file: "pkg/sentry/syscalls/linux/sys_sysinfo.go",
		old: `		Unit:     1,
`,
		new: `		BufferRAM: heap,
		Unit:     1,
`,
	},
	{
		file: "pkg/sentry/syscalls/linux/sys_sysinfo.go",
		old: `// Sysinfo implements Linux syscall sysinfo(2).
`,
		new: `var (
	heapCollecting atomic.Bool   // a collection runs, or ended less than 200 ms ago
	heapLive       atomic.Uint64 // bytes of the objects that the last such collection left
)

// heapAbove returns by how many bytes the objects on gVisor's heap exceed limit. Only objects that the last collection left count: after
// a restore, most of the others are garbage. base is the sandbox's other memory. If both together are more than a quarter of the cgroup's
// limit (half of the sandbox's), so that the guest may soon act on it, heapAbove starts a collection.
func heapAbove(limit, base uint64) uint64 {
	n := heapObjects()
	if n <= limit {
		heapLive.Store(0)
		return 0
	}
	if base+n-limit > usage.MaximumTotalMemoryBytes/4 && heapCollecting.CompareAndSwap(false, true) {
		go func() {
			debug.FreeOSMemory()
			heapLive.Store(heapObjects())
			time.Sleep(200 * time.Millisecond)
			heapCollecting.Store(false)
		}()
	}
	if n = min(n, heapLive.Load()); n <= limit {
		return 0
	}
	return n - limit
}

func heapObjects() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// Sysinfo implements Linux syscall sysinfo(2).
`,
	},
	{
		file: "pkg/sentry/syscalls/linux/sys_sysinfo.go",
		old: `import (
`,
		new: `import (
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
	"time"

`,
	},

	// A pooled sandbox waits for a request to restore a checkpoint. If the daemon that started the sandbox ends before
	// this request, the stdin of the sandbox is closed, and the sandbox exits. A sandbox that has received the request
	// no longer depends on the daemon.
	{
		file: "runsc/boot/loader.go",
		old: `	args.StartupTimer.Reached("control server started")

	return l, nil
}
`,
		new: `	args.StartupTimer.Reached("control server started")

	if strings.HasPrefix(args.ID, "spare-") && len(args.StdioFDs) > 0 {
		go l.endWithStarter()
	}
	return l, nil
}

// endWithStarter ends the process when the other end of its stdin is closed before the sandbox has received its request. The request is
// to run a command or to restore a checkpoint. Until then, no seccomp filter is installed, so poll and exit are allowed.
func (l *Loader) endWithStarter() {
	for {
		stdin := []unix.PollFd{{Fd: startingStdioFD}}
		n, _ := unix.Poll(stdin, 500)
		l.mu.Lock()
		if l.state != created {
			l.mu.Unlock()
			return
		}
		if n > 0 && stdin[0].Revents&unix.POLLHUP != 0 {
			os.Exit(1)
		}
		l.mu.Unlock()
	}
}
`,
	},
}

func (p patch) apply(dir string) error {
	path := filepath.Join(dir, filepath.FromSlash(p.file))
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if n := bytes.Count(text, []byte(p.old)); n != 1 {
		return fmt.Errorf("%s contains the text that a patch replaces %d times, want once: adapt the patch to this version of gVisor, or remove it if gVisor no longer needs it", p.file, n)
	}
	return os.WriteFile(path, bytes.Replace(text, []byte(p.old), []byte(p.new), 1), 0o644)
}
