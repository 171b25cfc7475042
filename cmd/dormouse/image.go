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
	Build imageBuildCommand `cmd:"" help:"Make the sandbox image unless it exists, and load it into the engine."`
	Load  imageLoadCommand  `cmd:"" help:"Load another image into the gvisor engine: an OCI layout directory or a 'docker save' tar."`
}

type imageLoadCommand struct {
	Path string `arg:"" help:"OCI layout directory or 'docker save' tar." type:"existingpath"`
	Name string `help:"Name of the image for --allow-image and create_sandbox. Default: its name in the archive."`
	homeFlag
	JSON bool `help:"Print JSON." env:"-"`
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
	Way string `help:"How to make the image: auto, debian (mmdebstrap; root on Debian) or dockerhub (docker build)." default:"auto" enum:"${ways}" env:"DORMOUSE_IMAGE_WAY"`
	homeFlag
	Engine  string `help:"Engine to load the image into: auto, docker or gvisor." default:"auto" enum:"auto,docker,gvisor" env:"DORMOUSE_ENGINE"`
	Mirror  string `help:"Debian mirror to download packages from." default:"${mirror}" env:"DORMOUSE_IMAGE_MIRROR"`
	Rebuild bool   `help:"Make the image even if it exists." env:"-"`
	JSON    bool   `help:"Print JSON." env:"-"`
}

func (c *imageBuildCommand) Run(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	// Building an image starts no sandbox, so the engine needs no cgroups.
	e, err := sandboxd.OpenEngine(ctx, sandboxd.Config{Settings: sandboxd.Settings{Home: c.Home, Engine: c.Engine, WithoutCgroups: true}})
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
