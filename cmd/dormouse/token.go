package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/dormouse-sandbox/dormouse/sandboxd/home"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/server"
)

type tokenCommand struct {
	Add tokenAddCommand `cmd:"" help:"Create a token for a name and print it. It is not shown again."`
	Ls  tokenLsCommand  `cmd:"" help:"List the names that have a token."`
	Rm  tokenRmCommand  `cmd:"" help:"Revoke the token of a name immediately. Its sandboxes stay."`
}

// tokenFlags selects the token file. A running server reads the token file again when the file changes.
type tokenFlags struct {
	homeFlag
	TokenFile string `help:"File with the clients' tokens. Default: 'token' in the home." type:"path" env:"DORMOUSE_TOKEN_FILE"`
	JSON      bool   `help:"Print JSON." env:"-"`
}

func (f tokenFlags) path() string {
	if f.TokenFile != "" {
		return f.TokenFile
	}
	return filepath.Join(f.Home, home.TokenName)
}

type tokenAddCommand struct {
	Name string `arg:"" help:"Name of the token's owner. Each name sees only its own sandboxes; 'default' is the operator and sees all."`
	tokenFlags
}

// Validate is called by kong before Run.
func (c *tokenAddCommand) Validate() error {
	_, err := sandbox.ParseOwner(c.Name)
	return err
}

func (c *tokenAddCommand) Run() error {
	if c.TokenFile == "" {
		if err := home.Prepare(c.Home); err != nil {
			return err
		}
	}
	secret, err := server.AddToken(c.path(), c.Name)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(map[string]string{"name": c.Name, "token": secret})
	}
	_, err = fmt.Println(secret)
	return err
}

type tokenLsCommand struct{ tokenFlags }

func (c *tokenLsCommand) Run() error {
	names, err := server.TokenNames(c.path())
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(names)
	}
	if len(names) == 0 {
		fmt.Fprintln(os.Stderr, "there are no tokens; dormouse serve creates the first one")
	}
	for _, name := range names {
		fmt.Println(name)
	}
	return nil
}

type tokenRmCommand struct {
	Name string `arg:"" help:"Name of the token's owner."`
	tokenFlags
}

func (c *tokenRmCommand) Run() error {
	if err := server.RemoveToken(c.path(), c.Name); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(map[string]string{"name": c.Name})
	}
	fmt.Println(c.Name)
	return nil
}
