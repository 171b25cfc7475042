package gvisor

import (
	"context"
	"io"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/rootfs"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// HasImage reports whether the image with the name ref is unpacked.
func (e *Engine) HasImage(_ context.Context, ref string) (bool, error) { return e.images.Has(ref) }

// ImportImage creates an image with the name ref from the tar of a root file system ([rootfs.Images.Import]).
func (e *Engine) ImportImage(ctx context.Context, root io.Reader, ref string, changes ...string) error {
	return e.images.Import(ctx, root, ref, changes...)
}

// LoadImage imports an image from the folder of an OCI layout, or from a tar that `docker save` made
// ([rootfs.Images.Load]).
func (e *Engine) LoadImage(ctx context.Context, path, ref string) (string, error) {
	return e.images.Load(ctx, path, ref)
}

// BuildImage always fails: only a Docker engine can build a Dockerfile.
func (e *Engine) BuildImage(context.Context, io.Reader, string, io.Writer) error {
	return sandbox.Errorf(sandbox.Unavailable, "the gvisor engine can't build a Dockerfile: use `dormouse image build --way debian`, which needs root, or a Docker engine, or have another image pulled: --image python:3.13-slim")
}

// findImage returns the image with the name ref. If it is missing and the engine may pull images, findImage pulls it.
func (e *Engine) findImage(ctx context.Context, ref string) (rootfs.Image, error) {
	if !e.mayPull {
		return e.images.Find(ref)
	}
	return e.images.FindOrPull(ctx, ref)
}
