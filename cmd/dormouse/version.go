package main

import (
	"fmt"
	"runtime"
)

type versionCommand struct {
	JSON bool `help:"Print JSON." env:"-"`
}

func (c *versionCommand) Run() error {
	if c.JSON {
		return printJSON(map[string]string{"version": version, "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH})
	}
	fmt.Println("dormouse", version)
	return nil
}
