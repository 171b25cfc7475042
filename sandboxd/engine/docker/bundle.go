package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sync"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/docker/client"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// guestVolumes makes the guest available to containers of any image. Each build and architecture has a named volume,
// which is filled once and which containers mount read-only. The files are copied through the engine's API, so a
// remote engine works too.
//
// A volume is trusted only if it has the marker, which is written after all other files, and if all files have the
// right sizes. While a daemon checks and fills a volume, it holds a lock that all daemons of the engine share: the name
// of the helper container through which it copies the files. So two daemons never fill a volume at the same time. A
// daemon that has waited for the lock normally finds the volume complete, and then writes nothing.
type guestVolumes struct {
	api    *client.Client
	bundle engine.Bundle
	stale  time.Duration // the age from which a helper container is considered left behind by a dead daemon

	mu     sync.Mutex
	filled map[string]guestVolume // the volumes that are known to be complete, by volume name
}

// guestVolume is a volume that contains the guest.
type guestVolume struct {
	Name string
	// Folder and Empty are the paths of this volume and of an empty volume on the engine's machine.
	Folder, Empty string
}

// emptyVolume is the name of a volume without files, which [privateView] uses.
const emptyVolume = "dormouse-empty"

const (
	marker = ".complete"
	// staleFill is the value of guestVolumes.stale. It is far longer than a daemon takes to fill a volume: about a
	// second, or more on a remote engine.
	staleFill = 2 * time.Minute
	fillPoll  = 50 * time.Millisecond
)

func newGuestVolumes(api *client.Client, bundle engine.Bundle) *guestVolumes {
	return &guestVolumes{api: api, bundle: bundle, stale: staleFill, filled: map[string]guestVolume{}}
}

// ensure returns the volume that contains the guest for an image's architecture. It fills the volume if necessary.
func (g *guestVolumes) ensure(ctx context.Context, img imageFacts) (guestVolume, error) {
	name := "dormouse-guest-" + g.bundle.ID() + "-" + img.Arch
	g.mu.Lock()
	defer g.mu.Unlock()
	if v, ok := g.filled[name]; ok {
		return v, nil
	}
	v, _, err := g.fill(ctx, name, img)
	if err != nil {
		return v, wrap("install the guest in volume "+name, err)
	}
	g.filled[name] = v
	return v, nil
}

// refill checks again whether a volume is complete, and fills it if it was removed or damaged in the meantime. It
// reports whether it wrote files.
func (g *guestVolumes) refill(ctx context.Context, name string, img imageFacts) (bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.filled, name)
	v, wrote, err := g.fill(ctx, name, img)
	if err == nil {
		g.filled[name] = v
	}
	return wrote, err
}

// fill creates the volume if it is missing, makes sure that it contains the guest, and reports whether it had to
// write files.
func (g *guestVolumes) fill(ctx context.Context, name string, img imageFacts) (v guestVolume, wrote bool, err error) {
	labels := map[string]string{labelGuest: g.bundle.ID(), labelSchema: schema}
	full, err := g.api.VolumeCreate(ctx, volume.CreateOptions{Name: name, Labels: labels})
	if err != nil {
		return v, false, err
	}
	empty, err := g.api.VolumeCreate(ctx, volume.CreateOptions{Name: emptyVolume, Labels: map[string]string{labelSchema: schema}})
	if err != nil {
		return v, false, err
	}
	v = guestVolume{Name: name, Folder: full.Mountpoint, Empty: empty.Mountpoint}
	wrote, err = g.write(ctx, name, img, labels)
	return v, wrote, err
}

// write writes the volume's content if it is missing or incomplete, and reports whether it did.
func (g *guestVolumes) write(ctx context.Context, name string, img imageFacts, labels map[string]string) (wrote bool, err error) {
	helper, err := g.lock(ctx, name, img, labels)
	if err != nil {
		return false, err
	}
	defer func() {
		ctx, cancel := engine.Cleanup(ctx)
		defer cancel()
		err = errors.Join(err, g.api.ContainerRemove(ctx, helper, container.RemoveOptions{Force: true}))
	}()
	files, err := g.bundle.Files(img.Arch)
	if err != nil {
		return false, fmt.Errorf("guest for %s: %w", img.Arch, err)
	}
	if intact, err := g.intact(ctx, helper, files); intact || err != nil {
		return false, err
	}
	reader, writer := io.Pipe()
	defer reader.Close()
	go func() { writer.CloseWithError(writeTar(writer, files)) }()
	if err := g.api.CopyToContainer(ctx, helper, engine.BundleDir, reader, container.CopyToContainerOptions{}); err != nil {
		return false, err
	}
	var end bytes.Buffer
	if err := writeMarker(&end); err != nil {
		return false, err
	}
	return true, g.api.CopyToContainer(ctx, helper, engine.BundleDir, &end, container.CopyToContainerOptions{})
}

// intact reports whether the volume has the marker and all the files, with their sizes. The marker alone is no proof:
// the engine does not sync the files that it writes, so after a power cut the marker can exist while a file is empty.
func (g *guestVolumes) intact(ctx context.Context, helper string, files fs.FS) (bool, error) {
	sizes := map[string]int64{marker: 0}
	err := fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			sizes[name] = info.Size()
		}
		return err
	})
	if err != nil {
		return false, err
	}
	for name, size := range sizes {
		stat, err := g.api.ContainerStatPath(ctx, helper, path.Join(engine.BundleDir, name))
		if cerrdefs.IsNotFound(err) || err == nil && stat.Size != size {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

// lock creates the helper container, which is never started, and returns its id. The engine allows only one container
// of that name. While another daemon's helper exists, lock waits, and removes that helper when it is stale. The caller
// releases the lock by removing the helper container.
func (g *guestVolumes) lock(ctx context.Context, name string, img imageFacts, labels map[string]string) (string, error) {
	helper := name + "-fill"
	for {
		// The call does not end with ctx: an engine creates the container even if the call is cancelled, and then
		// nothing would remove the helper.
		createCtx, cancel := engine.Cleanup(ctx)
		made, err := g.api.ContainerCreate(createCtx,
			&container.Config{Image: img.ID, Entrypoint: []string{"/nothing"}, Labels: labels, NetworkDisabled: true},
			&container.HostConfig{
				NetworkMode: "none",
				LogConfig:   container.LogConfig{Type: "none"},
				Mounts: []mount.Mount{{Type: mount.TypeVolume, Source: name, Target: engine.BundleDir,
					VolumeOptions: &mount.VolumeOptions{NoCopy: true}}},
			}, nil, nil, helper)
		cancel()
		if err == nil {
			return made.ID, nil
		}
		if !cerrdefs.IsConflict(err) {
			return "", err
		}
		if err := g.removeStaleHelper(ctx, helper); err != nil {
			return "", err
		}
		select {
		case <-time.After(fillPoll):
		case <-ctx.Done():
			return "", sandbox.Errorf(sandbox.Unavailable, "another daemon is still installing the guest: try again in a moment").WithCause(ctx.Err())
		}
	}
}

// removeStaleHelper removes the container named helper if it is older than g.stale, because its daemon is then
// considered dead. The engine recorded the container's creation time, so the age is computed with the engine's clock,
// not with this machine's. The container is removed by its id, because another daemon's helper may have the name by
// then.
func (g *guestVolumes) removeStaleHelper(ctx context.Context, helper string) error {
	old, err := g.api.ContainerInspect(ctx, helper)
	if cerrdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	sys, err := g.api.Info(ctx)
	if err != nil {
		return err
	}
	now, err := time.Parse(time.RFC3339Nano, sys.SystemTime)
	if err != nil {
		return fmt.Errorf("parse the engine's time: %w", err)
	}
	made, err := time.Parse(time.RFC3339Nano, old.Created)
	if err != nil {
		return fmt.Errorf("parse the creation time of a helper container: %w", err)
	}
	if now.Sub(made) < g.stale {
		return nil
	}
	err = g.api.ContainerRemove(ctx, old.ID, container.RemoveOptions{Force: true})
	if cerrdefs.IsNotFound(err) || cerrdefs.IsConflict(err) {
		return nil
	}
	return err
}

// writeTar writes the bundle's files as a tar archive. In the archive, all files belong to root, and the file named
// guest is executable.
func writeTar(w io.Writer, files fs.FS) error {
	archive := tar.NewWriter(w)
	err := fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		header := &tar.Header{Name: name, Mode: 0o644, Format: tar.FormatPAX}
		if entry.IsDir() {
			header.Typeflag, header.Name, header.Mode = tar.TypeDir, name+"/", 0o755
			return archive.WriteHeader(header)
		}
		if name == "guest" {
			header.Mode = 0o755
		}
		file, err := files.Open(name)
		if err != nil {
			return err
		}
		defer file.Close()
		stat, err := file.Stat()
		if err != nil {
			return err
		}
		header.Typeflag, header.Size = tar.TypeReg, stat.Size()
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		_, err = io.Copy(archive, file)
		return err
	})
	return errors.Join(err, archive.Close())
}

func writeMarker(w io.Writer) error {
	archive := tar.NewWriter(w)
	err := archive.WriteHeader(&tar.Header{Name: marker, Typeflag: tar.TypeReg, Mode: 0o444})
	return errors.Join(err, archive.Close())
}
