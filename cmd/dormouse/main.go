// Dormouse runs code that agents write in sandboxes that stay alive between calls.
//
// This package is the command line. main.go parses the arguments, clients.go contains the configurations of MCP clients,
// and each other file contains subcommands and their flags. ARCHITECTURE.md lists the packages that do the work.
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
	"github.com/dormouse-sandbox/dormouse/sandboxd/home"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/tools/render"
)

// version is the version of Dormouse. The Makefile sets it with a linker flag.
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
	render.RunPictureWorker()
	// SIGTERM cancels every command. Each command handles SIGINT itself; exec, for example, first interrupts the code.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()

	parser := newParser(ctx)
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

// newParser returns a parser of the command line. The commands run with ctx.
func newParser(ctx context.Context) *kong.Kong {
	return kong.Must(&command{},
		kong.Name("dormouse"),
		kong.Description("Code-execution sandboxes for AI agents. Every flag can also be set as an environment variable: --max-sandboxes is DORMOUSE_MAX_SANDBOXES."),
		kong.DefaultEnvars("DORMOUSE"),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Vars{
			"home":    home.Default(),
			"clients": clientKeys(),
			"mirror":  image.DefaultMirror,
			"ways":    fmt.Sprintf("%s,%s,%s", image.Auto, image.Debian, image.DockerHub),
		},
	)
}

// wrongUsage returns the message for a command line that can't be parsed. The message ends with the command that prints
// the help of the selected subcommand.
func wrongUsage(err error) string {
	help := "dormouse --help"
	if parse, ok := errors.AsType[*kong.ParseError](err); ok {
		if node := parse.Context.Selected(); node != nil {
			help = node.FullPath() + " --help"
		}
	}
	message := err.Error()
	if problem, suggestion, ok := strings.Cut(message, ", did you mean "); ok {
		message = problem + " (did you mean " + suggestion + ")"
	}
	return fmt.Sprintf("%s; see %s", message, help)
}

// sentence returns the text of an error for the user of the command line. The servers hide the details of internal errors
// from their clients. sentence does not, because the command runs on the user's own machine.
func sentence(err error) string {
	if kind := sandbox.KindOf(err); kind != sandbox.Internal {
		return sandbox.Public(err).Message
	}
	return err.Error()
}

// exitCode is an error that makes the command exit with this number as its status. No message is printed for it.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit status %d", int(c)) }

// Exit statuses that every command can have. README.md documents them. exec.go defines further exit statuses, for the
// outcome of the code.
const (
	exitUsage   = 2   // the command line is wrong; the command did nothing
	exitTrouble = 125 // Dormouse itself failed
)
