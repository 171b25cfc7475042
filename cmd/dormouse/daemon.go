package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/dormouse-sandbox/dormouse/image"
	"github.com/dormouse-sandbox/dormouse/sandboxd"
	"github.com/dormouse-sandbox/dormouse/sandboxd/api"
	"github.com/dormouse-sandbox/dormouse/sandboxd/home"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/server"
	"github.com/dormouse-sandbox/dormouse/server/spool"
	"github.com/dormouse-sandbox/dormouse/tools"
)

// daemonFlags are the daemon's settings. Every command that can start the daemon has them.
type daemonFlags struct {
	Home         string           `help:"Folder for everything that the daemon stores." default:"${home}" type:"path"`
	Engine       string           `help:"What runs sandboxes: docker, gvisor (Linux, without Docker), or auto: docker if it answers, else gvisor." default:"auto" enum:"auto,docker,gvisor"`
	Runtime      string           `help:"The engine's runtime: runsc (gVisor), runc. Default: runsc when the engine has it."`
	Image        string           `help:"Default image for new sandboxes. Default: the image that 'dormouse image build' makes."`
	AllowImage   []string         `help:"Image that create_sandbox may use besides the default; can be repeated. '*' allows any image."`
	TTL          sandbox.Duration `name:"ttl" help:"Default TTL of a sandbox, such as 36h, 1d12h or 1w; at most 14 days." default:"24h"`
	MaxSandboxes int              `help:"Largest number of running sandboxes. Sandboxes suspended to disk do not count." default:"100"`
	MaxMemory    byteSize         `help:"Largest sum of the memory limits of running sandboxes, such as 64GB. 0: four times the machine's memory, because few sandboxes use all of their limit." default:"0"`
	IdleSuspend  sandbox.Duration `help:"Suspend a sandbox after it has been idle this long; the next call resumes it. With gvisor, or Docker with runsc and experimental features, its memory is written to disk; otherwise the sandbox is paused. 0: never." default:"5m"`

	CheckpointEvery  sandbox.Duration `help:"Checkpoint a running sandbox after it has been idle this long since its last execution (gvisor only). It resumes from the checkpoint if the machine stops. 0: never." default:"60s"`
	MaxDisk          byteSize         `help:"Largest size of all checkpoints on disk, such as 20GB or 500MB. 0: no limit." default:"20GB"`
	WithoutCgroups   bool             `help:"Let the gvisor engine run sandboxes without cgroups. Then only the guest limits their memory and processes, and nothing limits their CPU use."`
	DockerDirectExec bool             `help:"Connect to a sandbox's guest through the container's runtime (runc, runsc) if the daemon is root on the Docker engine's machine and the engine has no authorization plugin. --docker-direct-exec=false: always connect through the engine." default:"true"`
	LogLevel         string           `help:"debug, info, warn or error." default:"info" enum:"debug,info,warn,error"`
}

// byteSize is a number of bytes. Its text form is a number with an optional unit: 20GB, 500MB or 1024.
type byteSize int64

var byteUnits = []struct {
	name  string
	bytes int64
}{{"TB", 1 << 40}, {"GB", 1 << 30}, {"MB", 1 << 20}, {"KB", 1 << 10}, {"", 1}}

// UnmarshalText implements [encoding.TextUnmarshaler].
func (s *byteSize) UnmarshalText(text []byte) error {
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
		*s = byteSize(n * float64(u.bytes))
		return nil
	}
	return fmt.Errorf("%q is no size: use 20GB, 500MB, or 0 for no limit", sandbox.Quote(string(text)))
}

// String returns the size in bytes, without a unit. UnmarshalText accepts it.
func (s byteSize) String() string { return strconv.FormatInt(int64(s), 10) }

func (f daemonFlags) config() sandboxd.Config {
	return sandboxd.Config{
		Home: f.Home, Engine: f.Engine, Runtime: f.Runtime, DefaultImage: f.image(), AllowImages: f.AllowImage,
		DefaultTTL: time.Duration(f.TTL), MaxSandboxes: f.MaxSandboxes, MaxMemory: int64(f.MaxMemory), IdleSuspend: time.Duration(f.IdleSuspend),
		CheckpointEvery: time.Duration(f.CheckpointEvery), MaxDisk: int64(f.MaxDisk), WithoutCgroups: f.WithoutCgroups, NoDirectExec: !f.DockerDirectExec, LogLevel: f.LogLevel, Version: version,
	}
}

func (f daemonFlags) image() string {
	if f.Image == "" {
		return image.Ref()
	}
	return f.Image
}

// args returns the flags as arguments of `dormouse sandboxd`. Commands use it to start a daemon with the same settings.
func (f daemonFlags) args() []string {
	a := []string{
		"--home=" + f.Home, "--engine=" + f.Engine, "--image=" + f.image(), "--ttl=" + f.TTL.String(),
		fmt.Sprintf("--max-sandboxes=%d", f.MaxSandboxes), "--max-memory=" + f.MaxMemory.String(), "--idle-suspend=" + f.IdleSuspend.String(),
		"--checkpoint-every=" + f.CheckpointEvery.String(), "--max-disk=" + f.MaxDisk.String(), "--log-level=" + f.LogLevel, "--on-demand",
	}
	if f.Runtime != "" {
		a = append(a, "--runtime="+f.Runtime)
	}
	if f.WithoutCgroups {
		a = append(a, "--without-cgroups")
	}
	if !f.DockerDirectExec {
		a = append(a, "--docker-direct-exec=false")
	}
	if len(f.AllowImage) > 0 {
		a = append(a, "--allow-image="+strings.Join(f.AllowImage, ","))
	}
	return a
}

type sandboxdCommand struct {
	daemonFlags
	OnDemand bool `hidden:"" help:"A client started this daemon." env:"-"`
}

func (c *sandboxdCommand) Run(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	config := c.config()
	config.OnDemand = c.OnDemand
	return sandboxd.Run(ctx, config)
}

// clientFlags are the flags of commands that call the daemon. These commands start the daemon if none runs.
type clientFlags struct{ daemonFlags }

func (f clientFlags) connect(ctx context.Context) (*api.Client, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program's own file: %w", err)
	}
	client, _, err := home.Connect(ctx, f.Home, exe, f.args()...)
	return client, err
}

type mcpCommand struct {
	AllowDir    []string `help:"Folder whose files a model may copy into a sandbox with local_path; can be repeated. Default: none." type:"path"`
	PrintConfig string   `help:"Print the configuration with which a client starts this server, including the other flags given, and exit: ${clients}." placeholder:"CLIENT" env:"-"`
	clientFlags
}

// Validate is called by kong before Run.
func (c *mcpCommand) Validate() error {
	if c.PrintConfig == "" {
		return nil
	}
	_, err := findClient(c.PrintConfig)
	return err
}

func (c *mcpCommand) Run(ctx context.Context, k *kong.Context) error {
	if c.PrintConfig != "" {
		client, _ := findClient(c.PrintConfig) // cannot fail: Validate has checked it
		this, err := thisServer(k)
		if err != nil {
			return err
		}
		return client.printConfig(os.Stdout, os.Stderr, this)
	}
	client, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	log := sandboxd.NewLogger(os.Stderr, c.LogLevel)
	home.WarnSkew(ctx, client, version, log)
	folder, err := spool.Open(filepath.Join(c.Home, home.SpoolName), 0)
	if err != nil {
		return err
	}
	config := tools.Config{AllowDirs: c.AllowDir, Logger: log}
	s := server.New(tools.New(client, config), server.Config{Version: version, Logger: log, Spool: folder, Resources: []tools.Resource{tools.Files(client, config)}})
	return s.ServeStdio(ctx, os.Stdin, os.Stdout)
}
