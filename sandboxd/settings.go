package sandboxd

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Settings are the settings of a daemon that a user can change. This is their only declaration: each field is a flag of every
// command that can start the daemon, with its default, its valid values and its help in the field's tags (those of
// github.com/alecthomas/kong), and an environment variable (DORMOUSE_MAX_DISK for MaxDisk). A command passes its settings on
// to the daemon that it starts. So a new setting needs one field here, and the code that uses it.
//
// The zero value of a field means the same as its default, except that zero switches off IdleSuspend, CheckpointEvery,
// MaxDisk and DockerDirectExec.
type Settings struct {
	Home         string           `help:"Folder for everything that the daemon stores." default:"${home}" type:"path"`
	Engine       string           `help:"What runs sandboxes: docker, gvisor (Linux, without Docker), or auto: docker if it answers, else gvisor." default:"auto" enum:"auto,docker,gvisor"`
	Runtime      string           `help:"The engine's runtime: runsc (gVisor), runc. Default: runsc when the engine has it."`
	Image        string           `help:"Default image for new sandboxes. Default: the image that 'dormouse image build' makes."`
	AllowImage   []string         `help:"Image that create_sandbox may use besides the default; can be repeated. '*' allows any image."`
	TTL          sandbox.Duration `name:"ttl" help:"Default TTL of a sandbox, such as 36h, 1d12h or 1w; at most 14 days." default:"24h"`
	MaxSandboxes int              `help:"Largest number of running sandboxes. Sandboxes suspended to disk do not count." default:"100"`
	MaxMemory    ByteSize         `help:"Largest sum of the memory limits of running sandboxes, such as 64GB. 0: four times the machine's memory, because few sandboxes use all of their limit." default:"0"`
	IdleSuspend  sandbox.Duration `help:"Suspend a sandbox after it has been idle this long; the next call resumes it. With gvisor, or Docker with runsc and experimental features, its memory is written to disk; otherwise the sandbox is paused. 0: never." default:"5m"`

	CheckpointEvery  sandbox.Duration `help:"Checkpoint a running sandbox after it has been idle this long since its last execution (gvisor only). It resumes from the checkpoint if the machine stops. 0: never." default:"60s"`
	MaxDisk          ByteSize         `help:"Largest size of all checkpoints on disk, such as 20GB or 500MB. 0: no limit." default:"20GB"`
	WithoutCgroups   bool             `help:"Let the gvisor engine run sandboxes without cgroups. Then only the guest limits their memory and processes, and nothing limits their CPU use."`
	DockerDirectExec bool             `help:"Connect to a sandbox's guest through the container's runtime (runc, runsc) if the daemon is root on the Docker engine's machine and the engine has no authorization plugin. --docker-direct-exec=false: always connect through the engine." default:"true"`
	LogLevel         string           `help:"debug, info, warn or error." default:"info" enum:"debug,info,warn,error"`
}

// ByteSize is a number of bytes. Its text form is a number with an optional unit: 20GB, 500MB or 1024.
type ByteSize int64

var byteUnits = []struct {
	name  string
	bytes int64
}{{"TB", 1 << 40}, {"GB", 1 << 30}, {"MB", 1 << 20}, {"KB", 1 << 10}, {"", 1}}

// UnmarshalText implements [encoding.TextUnmarshaler].
func (s *ByteSize) UnmarshalText(text []byte) error {
	given := strings.ToUpper(strings.TrimSpace(string(text)))
	given = strings.Replace(given, "IB", "B", 1)
	for _, u := range byteUnits {
		number, ok := strings.CutSuffix(given, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if !(err == nil && n >= 0 && n*float64(u.bytes) < 1<<62) {
			break
		}
		*s = ByteSize(n * float64(u.bytes))
		return nil
	}
	return fmt.Errorf("%q is not a size: use a number with a unit, such as 20GB or 500MB, or 0", sandbox.Quote(string(text)))
}

// String returns the size in bytes, without a unit. UnmarshalText accepts it.
func (s ByteSize) String() string { return strconv.FormatInt(int64(s), 10) }
