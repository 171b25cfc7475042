package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/build"
	"github.com/docker/docker/api/types/image"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// inspectImage returns the facts about an image. It never pulls an image: the operator decides in which image code
// runs, and a pull takes minutes.
func (e *Engine) inspectImage(ctx context.Context, ref string) (imageFacts, error) {
	img, err := e.api.ImageInspect(ctx, ref)
	if cerrdefs.IsNotFound(err) {
		return imageFacts{}, noImage(ref).WithCause(err)
	}
	if err != nil {
		return imageFacts{}, wrap("look for the image", err)
	}
	if img.Os != "" && img.Os != "linux" {
		return imageFacts{}, sandbox.Errorf(sandbox.Invalid, "the image %q is for %s, but sandboxes need a Linux image", sandbox.Quote(ref), img.Os)
	}
	return imageFactsOf(img), nil
}

func noImage(ref string) *sandbox.Error {
	return sandbox.Errorf(sandbox.Unavailable,
		"the image %[1]s is not on the Docker engine: run `dormouse image build` if it is Dormouse's own, else `docker pull %[1]s`", sandbox.Quote(ref))
}

// HasImage reports whether the engine has an image.
func (e *Engine) HasImage(ctx context.Context, ref string) (bool, error) {
	_, err := e.api.ImageInspect(ctx, ref)
	if cerrdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, wrap("look for the image", err)
}

// ImportImage creates an image named ref from a root file system in a tar stream. Changes are lines of a Dockerfile,
// such as "ENV LANG=C.UTF-8" and "LABEL a=b".
func (e *Engine) ImportImage(ctx context.Context, root io.Reader, ref string, changes ...string) error {
	answer, err := e.api.ImageImport(ctx, image.ImportSource{Source: root, SourceName: "-"}, ref, image.ImportOptions{Changes: changes})
	if err != nil {
		return wrap("import the image", err)
	}
	defer answer.Close()
	return progress(answer, io.Discard)
}

// BuildImage builds an image named ref from a build context in a tar stream, with its Dockerfile at the root. It
// writes the build's output to log.
func (e *Engine) BuildImage(ctx context.Context, buildContext io.Reader, ref string, log io.Writer) error {
	answer, err := e.api.ImageBuild(ctx, buildContext, build.ImageBuildOptions{
		Tags: []string{ref}, Remove: true, ForceRemove: true, Version: build.BuilderV1,
		// The build needs a network because its packages come from a mirror. The isolation of sandboxes does not
		// depend on the image.
		NetworkMode: "host",
	})
	if err != nil {
		return wrap("build the image", err)
	}
	defer answer.Body.Close()
	return progress(answer.Body, log)
}

// progress reads the engine's messages to their end and writes the build's output to log. If a message is an error,
// progress returns it.
func progress(messages io.Reader, log io.Writer) error {
	decoder := json.NewDecoder(messages)
	for {
		var message struct {
			Stream string `json:"stream"`
			Error  string `json:"error"`
		}
		err := decoder.Decode(&message)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return wrap("read the engine's progress", err)
		}
		if message.Error != "" {
			return fmt.Errorf("the engine reports: %s", message.Error)
		}
		if _, err := io.WriteString(log, message.Stream); err != nil {
			return err
		}
	}
}
