//go:build linux

package supervisor

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/kernels"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// programs contains how the kernel of each supported language is started.
var programs = func() map[sandbox.Language]kernels.Language {
	m := map[sandbox.Language]kernels.Language{}
	for _, l := range kernels.Languages {
		m[sandbox.Language(l.Name)] = l
	}
	return m
}()

// limits returns resource limits of a kernel in bytes: of its private memory (data) and of its address space (space).
// 0 means no limit. With the limits, an allocation that can never fit fails, which raises a MemoryError in Python, so
// that the variables are kept. The watchdog limits the memory that is really used. Linux counts private writable memory
// (data), which includes the stacks of threads: 8 MiB each. gVisor only counts address space (space), of which threads
// and libraries reserve much more than they use: 8 MiB for each of 512 threads, and for each CPU eight malloc arenas of
// up to 128 MiB. V8 reserves far more than it uses, so Node gets a limit for V8's heap instead.
func limits(l kernels.Language, memory int64) (data, space int64) {
	if !l.LimitMemory {
		return 0, 0
	}
	return memory + 1<<30, memory + 4<<30 + int64(runtime.GOMAXPROCS(0))<<30
}

// heapMiB returns the size of V8's heap: 60 % of the sandbox's memory.
func heapMiB(memory int64) int { return int(memory / 10 * 6 / sandbox.MiB) }

// searchPath is where interpreters are searched for if the container's environment has no PATH.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// command returns the arguments and the environment of a `guest launch` process, which switches to the kernels' user,
// sets the limits and executes the kernel's program.
func (s *Supervisor) command(lang sandbox.Language) (argv, env []string, err error) {
	p := programs[lang]
	path := os.Getenv("PATH")
	if path == "" {
		path = searchPath
	}
	interpreter := ""
	for _, name := range p.Interpreters {
		if interpreter = lookPath(path, name); interpreter != "" {
			break
		}
	}
	if interpreter == "" {
		return nil, nil, fmt.Errorf("this image has no %s: use another language or an image that has it", p.Interpreters[0])
	}
	data, space := limits(p, s.config.Memory)
	argv = []string{
		s.program, "launch",
		"--uid=" + strconv.Itoa(s.config.UID),
		"--dir=" + sandbox.Workspace,
		"--processes=" + strconv.Itoa(s.config.Processes),
		"--file=" + strconv.FormatInt(s.config.Workspace, 10),
		"--data=" + strconv.FormatInt(data, 10),
		"--space=" + strconv.FormatInt(space, 10),
		"--home=" + home,
		"--",
	}
	argv = append(argv, p.Argv(interpreter, filepath.Join(s.config.Bundle, "kernels"), heapMiB(s.config.Memory))...)
	return argv, environment(path), nil
}

// home is the kernels' home folder. It is writable, and outside of the workspace, so that its files are not listed.
const home = "/tmp/home"

// environment returns the whole environment of a kernel. Only PATH comes from the container.
func environment(path string) []string {
	cpus := strconv.Itoa(runtime.GOMAXPROCS(0)) // GOMAXPROCS is the CPU limit of the cgroup, rounded up
	return []string{
		"PATH=" + path,
		"HOME=" + home,
		"USER=sandbox",
		"LOGNAME=sandbox",
		"SHELL=/bin/sh",
		"LANG=C.UTF-8",
		"LC_ALL=C.UTF-8",
		"TZ=UTC",
		"TERM=dumb",
		"TMPDIR=/tmp",
		"PYTHONDONTWRITEBYTECODE=1",
		"PYTHONUTF8=1",
		"IPYTHONDIR=" + home + "/.ipython",
		"MPLCONFIGDIR=" + home + "/.matplotlib",
		"MPLBACKEND=agg",
		"PLOTLY_RENDERER=plotly_mimetype", // there is no browser, so a figure is sent as data and not as 5 MB of script
		"NODE_PATH=/usr/local/lib/node_modules:/usr/lib/node_modules:/usr/share/nodejs",
		"OMP_NUM_THREADS=" + cpus,
		"OPENBLAS_NUM_THREADS=" + cpus,
		"MKL_NUM_THREADS=" + cpus,
		"NUMEXPR_NUM_THREADS=" + cpus,
	}
}

func lookPath(path, name string) string {
	for dir := range strings.SplitSeq(path, ":") {
		if !filepath.IsAbs(dir) {
			continue
		}
		file := filepath.Join(dir, name)
		if st, err := os.Stat(file); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return file
		}
	}
	return ""
}
