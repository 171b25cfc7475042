// Dormouse runs code that agents write, in sandboxes that stay alive. This is its
// command: the subcommands and their flags, and nothing else. ARCHITECTURE.md says where the rest is.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/dormouse-sandbox/dormouse/image"
	"github.com/dormouse-sandbox/dormouse/sandboxd"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools"
)

// version is set by the linker (Makefile).
var version = "dev"

type command struct {
	MCP      mcpCommand      `cmd:"" name:"mcp" help:"Serve the Model Context Protocol on stdio. Starts the daemon if none runs."`
	Serve    serveCommand    `cmd:"" help:"Run the daemon with MCP over HTTP and the REST API on a TCP address."`
	Sandboxd sandboxdCommand `cmd:"" help:"Run the daemon in the foreground."`
	Exec     execCommand     `cmd:"" help:"Run code in a sandbox and exit with its success or failure."`
	Ls       lsCommand       `cmd:"" help:"List sandboxes."`
	Rm       rmCommand       `cmd:"" help:"Delete sandboxes."`
	Doctor   doctorCommand   `cmd:"" help:"Check this machine, start and use a sandbox, and explain how to fix problems."`
	Image    imageCommand    `cmd:"" help:"Manage the default sandbox image."`
	Token    tokenCommand    `cmd:"" help:"Manage the tokens for dormouse serve."`
	Version  versionCommand  `cmd:"" help:"Print the version."`
}

func main() {
	tools.RunPictureWorker()
	// SIGINT is a command's own business (exec interrupts the code first); SIGTERM ends them all.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()

	var cmd command
	parser := kong.Must(&cmd,
		kong.Name("dormouse"),
		kong.Description("Code-execution sandboxes for AI agents. Every flag can also be set as an environment variable: --max-sandboxes is DORMOUSE_MAX_SANDBOXES."),
		kong.DefaultEnvars("DORMOUSE"),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Vars{
			"home":    sandboxd.DefaultHome(),
			"clients": clientKeys(),
			"mirror":  image.DefaultMirror,
			"ways":    fmt.Sprintf("%s,%s,%s", image.Auto, image.Debian, image.DockerHub),
		},
	)
	words := os.Args[1:]
	if len(words) == 0 {
		words = []string{"--help"}
	}
	args, err := parser.Parse(words)
	if err != nil {
		fmt.Fprintln(os.Stderr, "dormouse:", wrongUsage(err))
		os.Exit(exitUsage)
	}
	if err := args.Run(); err != nil {
		var exit exitCode
		if errors.As(err, &exit) {
			os.Exit(int(exit))
		}
		fmt.Fprintln(os.Stderr, "dormouse:", sentence(err))
		os.Exit(exitTrouble)
	}
}

// wrongUsage says what is wrong with the command line, and where its right use is told.
func wrongUsage(err error) string {
	help := "dormouse --help"
	if parse, ok := errors.AsType[*kong.ParseError](err); ok {
		if node := parse.Context.Selected(); node != nil {
			help = node.FullPath() + " --help"
		}
	}
	says := err.Error()
	if wrong, meant, ok := strings.Cut(says, ", did you mean "); ok {
		says = wrong + " (did you mean " + meant + ")"
	}
	return fmt.Sprintf("%s; see %s", says, help)
}

// sentence is what a person is shown of an error. At the command line nothing is
// hidden: it is the person's own machine.
func sentence(err error) string {
	if kind := sandbox.KindOf(err); kind != sandbox.Internal {
		return sandbox.Public(err).Message
	}
	return err.Error()
}

// exitCode ends the command quietly with a status.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit status %d", int(c)) }

// Exit statuses; README.md tells them. exec has more, for what became of the code.
const (
	exitUsage   = 2   // the command line is wrong, and nothing was done
	exitTrouble = 125 // Dormouse itself could not do it
)
