package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/system"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// System returns the properties that the engine reported when it was opened.
func (e *Engine) System() system.Info { return e.system }

// Images returns the tags of the engine's images. Tags that begin with "dormouse" or "python" come first.
func (e *Engine) Images(ctx context.Context) ([]string, error) {
	images, err := e.api.ImageList(ctx, image.ListOptions{})
	if err != nil {
		return nil, err
	}
	var tags []string
	for _, i := range images {
		for _, tag := range i.RepoTags {
			if strings.HasPrefix(tag, "dormouse") || strings.HasPrefix(tag, "python") {
				tags = slices.Insert(tags, 0, tag)
			} else if tag != "<none>:<none>" {
				tags = append(tags, tag)
			}
		}
	}
	return tags, nil
}

// SavedTo returns the folder of a suspended sandbox's checkpoint.
func (e *Engine) SavedTo(ctx context.Context, id sandbox.ID) (string, error) {
	found, err := e.find(ctx, id)
	return filepath.Join(e.checkpointsOf(found.ID), checkpointInName(found.Name).name), err
}

// ContainerOf returns the engine's id of a sandbox's container.
func (e *Engine) ContainerOf(ctx context.Context, id sandbox.ID) (string, error) {
	found, err := e.find(ctx, id)
	if err != nil {
		return "", err
	}
	return found.ID, nil
}

// VolumeOf returns the name of a bundle's volume.
func (e *Engine) VolumeOf(b engine.Bundle, arch string) string {
	return "dormouse-guest-" + b.ID() + "-" + arch
}

// RemoveVolume removes a volume, as `docker volume prune` would.
func (e *Engine) RemoveVolume(ctx context.Context, name string) error {
	return e.api.VolumeRemove(ctx, name, false)
}

// RemoveImage removes a test's image.
func (e *Engine) RemoveImage(ctx context.Context, ref string) error {
	_, err := e.api.ImageRemove(ctx, ref, image.RemoveOptions{})
	return err
}

// LeaveHelper creates a helper container and does not remove the container, like a daemon that is killed while it
// installs the guest. From then on, e considers a helper stale after one second.
func (e *Engine) LeaveHelper(ctx context.Context, b engine.Bundle, ref string) error {
	img, err := e.inspectImage(ctx, ref)
	if err != nil {
		return err
	}
	e.guest.stale = time.Second
	_, err = e.guest.lock(ctx, e.VolumeOf(b, img.Arch), img, nil)
	return err
}

// EmptyGuest truncates a file in a bundle's volume, as a power cut can.
func (e *Engine) EmptyGuest(ctx context.Context, b engine.Bundle, ref, file string) error {
	img, err := e.inspectImage(ctx, ref)
	if err != nil {
		return err
	}
	helper, err := e.guest.lock(ctx, e.VolumeOf(b, img.Arch), img, nil)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	archive := tar.NewWriter(&text)
	err = errors.Join(archive.WriteHeader(&tar.Header{Name: file, Typeflag: tar.TypeReg, Mode: 0o755}), archive.Close())
	if err == nil {
		err = e.api.CopyToContainer(ctx, helper, engine.BundleDir, &text, container.CopyToContainerOptions{})
	}
	return errors.Join(err, e.api.ContainerRemove(ctx, helper, container.RemoveOptions{Force: true}))
}

// Host returns the engine's address.
func (e *Engine) Host() string { return e.api.DaemonHost() }

// Local reports whether the engine may be on this machine.
func (e *Engine) Local() bool { return e.local }

// RuntimeOf reports whether a sandbox's runtime can be called directly, and returns the runtime's program.
func (e *Engine) RuntimeOf(ctx context.Context, id sandbox.ID) (ok bool, program string) {
	found, err := e.find(ctx, id)
	if err != nil {
		return false, ""
	}
	r, ok := e.runtimeOf(found.ID, found.State.Pid)
	return ok, r.Program
}

// Execs returns the number of execs that the engine has in a sandbox.
func (e *Engine) Execs(ctx context.Context, id sandbox.ID) (int, error) {
	found, err := e.find(ctx, id)
	return len(found.ExecIDs), err
}
