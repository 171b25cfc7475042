package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/dormouse-sandbox/dormouse/image"
	"github.com/dormouse-sandbox/dormouse/sandboxd"
)

type imageCommand struct {
	Build imageBuildCommand `cmd:"" help:"Make the sandbox image, or find it made, and bring it into the engine."`
	Load  imageLoadCommand  `cmd:"" help:"Bring another image into the gvisor engine: an OCI layout, or a tar of docker save."`
}

type imageLoadCommand struct {
	Path string `arg:"" help:"The folder of an OCI layout, or a tar of docker save." type:"existingpath"`
	Name string `help:"What the image is called, for --allow-image and create_sandbox. Default: the name that it has there."`
	Home string `help:"Folder that holds everything the daemon keeps." default:"${home}" type:"path" env:"DORMOUSE_HOME"`
	JSON bool   `help:"Print JSON." env:"-"`
}

func (c *imageLoadCommand) Run(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	ref, err := sandboxd.LoadImage(ctx, c.Home, c.Path, c.Name)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(map[string]string{"ref": ref})
	}
	fmt.Println(ref)
	return nil
}

type imageBuildCommand struct {
	Way     string `help:"How: auto, debian (mmdebstrap; root on Debian) or dockerhub (docker build)." default:"auto" enum:"${ways}" env:"DORMOUSE_IMAGE_WAY"`
	Home    string `help:"Folder that holds everything the daemon keeps." default:"${home}" type:"path" env:"DORMOUSE_HOME"`
	Engine  string `help:"The engine to bring it into: auto, docker or gvisor." default:"auto" enum:"auto,docker,gvisor" env:"DORMOUSE_ENGINE"`
	Mirror  string `help:"Where Debian's packages come from." default:"${mirror}" env:"DORMOUSE_IMAGE_MIRROR"`
	Rebuild bool   `help:"Make it again although it is there." env:"-"`
	JSON    bool   `help:"Print JSON." env:"-"`
}

func (c *imageBuildCommand) Run(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	e, err := sandboxd.OpenEngine(ctx, sandboxd.Config{Home: c.Home, Engine: c.Engine, WithoutCgroups: true}) // an image needs none
	if err != nil {
		return err
	}
	defer e.Close()
	result, err := image.Ensure(ctx, e, image.Options{Way: image.Way(c.Way), Mirror: c.Mirror, Rebuild: c.Rebuild}, os.Stderr)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(result)
	}
	fmt.Println(result.Ref)
	return nil
}
