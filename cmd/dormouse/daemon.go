package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/alecthomas/kong"

	"github.com/dormouse-sandbox/dormouse/image"
	"github.com/dormouse-sandbox/dormouse/sandboxd"
	"github.com/dormouse-sandbox/dormouse/sandboxd/api"
	"github.com/dormouse-sandbox/dormouse/sandboxd/home"
	"github.com/dormouse-sandbox/dormouse/server"
	"github.com/dormouse-sandbox/dormouse/server/spool"
	"github.com/dormouse-sandbox/dormouse/tools"
)

// homeFlag selects the home in commands that need no other setting of the daemon.
type homeFlag struct {
	Home string `help:"Folder for everything that the daemon stores." default:"${home}" type:"path" env:"DORMOUSE_HOME"`
}

// daemonFlags are the flags of every command that can start the daemon.
type daemonFlags struct{ sandboxd.Settings }

func (f daemonFlags) config() sandboxd.Config {
	c := sandboxd.Config{Settings: f.Settings, Version: version}
	c.Image = f.image()
	return c
}

func (f daemonFlags) image() string { return cmp.Or(f.Image, image.Ref()) }

// connect returns a client for the daemon. If no daemon runs, connect starts one with the settings of k, the parsed command
// line. The caller must close the client.
func (f daemonFlags) connect(ctx context.Context, k *kong.Context) (*api.Client, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the path of this program: %w", err)
	}
	client, _, err := home.Connect(ctx, f.Home, exe, daemonArgs(k)...)
	return client, err
}

// daemonArgs returns the arguments with which `dormouse sandboxd` has the same settings as k, the parsed command line of
// another command. It leaves out the home, which [home.Connect] adds.
func daemonArgs(k *kong.Context) []string {
	settings := map[string]bool{} // the flags of dormouse sandboxd
	for _, command := range k.Model.Children {
		if command.Name == "sandboxd" {
			for _, f := range command.Flags {
				settings[f.Name] = f.Name != "home"
			}
		}
	}
	args := []string{"--on-demand"}
	for _, f := range k.Flags() {
		if !settings[f.Name] {
			continue
		}
		for _, v := range flagValues(f) {
			if v != "" {
				args = append(args, "--"+f.Name+"="+v)
			}
		}
	}
	return args
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

type mcpCommand struct {
	AllowDir    []string `help:"Folder whose files a model may copy into a sandbox with local_path; can be repeated. Default: none." type:"path"`
	PrintConfig string   `help:"Print the configuration with which a client starts this server, including the other flags given, and exit: ${clients}." placeholder:"CLIENT" env:"-"`
	daemonFlags
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
	client, err := c.connect(ctx, k)
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
