// Package rootfs imports images and keeps their unpacked root file systems, which the sandboxes of all homes share.
//
//   - the folder of images, finding and importing them: [Images] (images.go)
//   - sources of images: a registry, an OCI layout, a `docker save` tar (pull.go), with limits for the data that is
//     held in memory (bounds.go)
//   - unpacking layers (unpack.go) inside of one folder, whatever the layers contain (tree.go)
//   - removing images that no home needs any more: [Images.Tidy] (tidy.go)
//
// The gVisor engine uses it. It does not decide which images a client may use, and starts no sandboxes.
package rootfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"

	"github.com/dormouse-sandbox/dormouse/image"
	"github.com/dormouse-sandbox/dormouse/sandboxd/durable"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Images is the folder of unpacked images, which all homes of a user share:
//
//	<digest>/rootfs     the complete root file system of an image, never changed afterwards; the digest is the sha256
//	                    of the tar that was imported, or of an OCI image's configuration
//	refs/<hash>.json    the name, digest and PATH of an image
//	homes/<hash>        the path of the engine's folder in a home whose sandboxes use these images
//	bin/runsc-<build>   a copy of each runsc that an engine was opened with
//	making-*            a folder in which an image is being unpacked; if the lock is free, it is a leftover
//	trash-*             a folder that is being removed
//	import.lock         locked while an image is imported or unused images are removed
//
// It is safe for concurrent use, also by several processes. The caller must call Close.
type Images struct {
	Dir string // an absolute path

	ctx        context.Context // for pulls; cancelled by Close
	quit       context.CancelFunc
	background sync.WaitGroup
	pulls      pulls
}

// Open returns the images in a folder, which is created when it is needed.
func Open(dir string) *Images {
	ctx, quit := context.WithCancel(context.Background())
	return &Images{Dir: dir, ctx: ctx, quit: quit}
}

// Close cancels the pulls in progress, and returns when no goroutine of i uses the folder any more.
func (i *Images) Close() {
	i.quit()
	i.background.Wait()
}

// DefaultDir returns the default folder of unpacked images. It is below the cache folder of package image.
func DefaultDir() (string, error) {
	dir, err := image.CacheDir()
	if err != nil {
		return "", sandbox.Errorf(sandbox.Unavailable, "%v", err)
	}
	return filepath.Join(dir, "unpacked"), nil
}

// Image is an unpacked image: the content of a file in refs.
type Image struct {
	Ref    string `json:"ref"`
	Digest string `json:"digest"`
	Path   string `json:"path,omitempty"` // the image's PATH, or empty
}

// Root returns the root file system of an image.
func (i *Images) Root(digest string) string { return filepath.Join(i.Dir, digest, "rootfs") }

func (i *Images) refFile(ref string) string {
	sum := sha256.Sum256([]byte(ref)) // ref may contain characters that a file name can't contain
	return filepath.Join(i.Dir, "refs", hex.EncodeToString(sum[:16])+".json")
}

// Find returns the unpacked image with the name ref. The error is of kind unavailable if there is none.
func (i *Images) Find(ref string) (Image, error) {
	var img Image
	err := folder.ReadJSON(i.refFile(ref), &img)
	if errors.Is(err, folder.ErrDamaged) {
		// The file is damaged. A new import of the image replaces it.
		return Image{}, NoImage(ref)
	}
	if err == nil && img.Ref == ref && folder.IsDigest(img.Digest) {
		if _, err = os.Stat(i.Root(img.Digest)); err == nil {
			return img, nil
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Image{}, fmt.Errorf("look for the image: %w", err)
	}
	return Image{}, NoImage(ref)
}

// NoImage returns the error for an image that is not unpacked.
func NoImage(ref string) *sandbox.Error {
	return sandbox.Errorf(sandbox.Unavailable,
		"the image %s is not unpacked for the gvisor engine: run `dormouse image build --engine gvisor` if it is Dormouse's own image, otherwise `dormouse image load`", sandbox.Quote(ref))
}

// Has reports whether the image with the name ref is unpacked.
func (i *Images) Has(ref string) (bool, error) {
	_, err := i.Find(ref)
	if sandbox.KindOf(err) == sandbox.Unavailable {
		return false, nil
	}
	return err == nil, err
}

// Import creates an image with the name ref from the tar of a root file system. changes are lines of a Dockerfile.
// Import uses only a line that sets PATH, such as "ENV PATH=/bin", and ignores the others.
func (i *Images) Import(ctx context.Context, root io.Reader, ref string, changes ...string) (err error) {
	defer func() { err = folder.ExplainFullDisk(err, i.Dir) }()
	digest, err := i.unpack(ctx, root)
	if err != nil {
		return fmt.Errorf("import the image: %w", err)
	}
	img := Image{Ref: ref, Digest: digest}
	for _, change := range changes {
		if path, is := strings.CutPrefix(change, "ENV PATH="); is {
			img.Path = path
		}
	}
	if err := i.name(img); err != nil {
		return fmt.Errorf("import the image: %w", err)
	}
	return nil
}

// unpack unpacks the tar of a root file system as an image and returns its digest. When it returns nil, the image is
// synced to disk.
func (i *Images) unpack(ctx context.Context, source io.Reader) (digest string, err error) {
	sum := sha256.New()
	err = i.withImportLock(ctx, func(rootfs string) (string, error) {
		if err := i.unpackLayers(ctx, rootfs, io.TeeReader(newContextReader(ctx, source), sum)); err != nil {
			return "", err
		}
		digest = hex.EncodeToString(sum.Sum(nil))
		return digest, nil
	})
	return digest, err
}

// withImportLock calls fill while it holds the import lock, and then stores the image. The function fill must unpack an
// image into the folder rootfs, and return the image's digest. If the import fails or the image existed already, the
// unpacked files are removed after the lock is released.
func (i *Images) withImportLock(ctx context.Context, fill func(rootfs string) (digest string, err error)) error {
	unlock, err := i.lock(ctx)
	if err != nil {
		return err
	}
	err = i.importLocked(ctx, fill)
	unlock()
	i.removeTrash(ctx)
	return err
}

func (i *Images) importLocked(ctx context.Context, fill func(rootfs string) (digest string, err error)) error {
	making, err := os.MkdirTemp(i.Dir, "making-*")
	if err != nil {
		return err
	}
	defer func() { _ = i.trash(making) }() // does nothing if storeImage has renamed the folder
	rootfs, err := i.makeRoot(making)
	if err != nil {
		return err
	}
	digest, err := fill(rootfs)
	if err != nil {
		return err
	}
	return i.storeImage(ctx, making, digest)
}

// makeRoot creates the folder rootfs in making, for an image to be unpacked in, and returns its path.
func (i *Images) makeRoot(making string) (string, error) {
	rootfs := filepath.Join(making, "rootfs")
	return rootfs, errors.Join(os.Mkdir(rootfs, 0o755), os.Chmod(rootfs, 0o755)) // Chmod, because the umask can remove bits from the mode of Mkdir
}

// storeImage syncs an unpacked image, and then renames its folder to its digest. It does nothing if the image exists
// already.
func (i *Images) storeImage(ctx context.Context, making, digest string) error {
	if folder.Exists(i.Root(digest)) {
		return nil
	}
	if err := i.waitFor(ctx, func() error { return folder.SyncAll(making) }); err != nil {
		return err
	}
	if err := os.Rename(making, filepath.Join(i.Dir, digest)); err != nil {
		return err
	}
	return durable.SyncDir(i.Dir)
}

// lock waits for the import lock, which also excludes other processes, and then moves the leftovers of killed imports to
// the trash. The caller must call unlock.
func (i *Images) lock(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(i.Dir, 0o700); err != nil {
		return nil, err
	}
	lock := flock.New(filepath.Join(i.Dir, "import.lock"))
	if _, err := lock.TryLockContext(ctx, 200*time.Millisecond); err != nil {
		return nil, fmt.Errorf("wait for %s: %w", lock.Path(), err)
	}
	i.clear()
	return func() { _ = lock.Unlock() }, nil
}

// clear moves the leftovers of a killed import to the trash. The caller must hold the import lock.
func (i *Images) clear() {
	leftovers, _ := filepath.Glob(filepath.Join(i.Dir, "making-*"))
	for _, dir := range leftovers {
		_ = i.trash(dir) // if this fails, the next import tries again
	}
}

// trash moves a folder, if it exists, into the trash, which [Images.removeTrash] removes.
func (i *Images) trash(dir string) error {
	if !folder.Exists(dir) {
		return nil
	}
	trash, err := os.MkdirTemp(i.Dir, "trash-")
	if err != nil {
		return err
	}
	return os.Rename(dir, filepath.Join(trash, filepath.Base(dir)))
}

// removeTrash removes the folders in the trash. The caller need not hold the import lock, so that removing many files
// does not delay other imports. removeTrash returns early when ctx ends. The remaining folders are removed after the
// next import or when an engine opens.
func (i *Images) removeTrash(ctx context.Context) {
	trash, _ := filepath.Glob(filepath.Join(i.Dir, "trash-*"))
	for _, dir := range trash {
		_ = i.waitFor(ctx, func() error { return os.RemoveAll(dir) })
	}
}

// waitFor calls fn, which can't be cancelled, and returns its error. If ctx ends first, it returns the error of ctx, and fn
// continues in the background. Close waits for fn.
func (i *Images) waitFor(ctx context.Context, fn func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	done := make(chan error, 1)
	i.background.Go(func() { done <- fn() })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// newContextReader returns a reader that reads from r and fails after ctx has ended.
func newContextReader(ctx context.Context, r io.Reader) io.Reader { return contextReader{ctx, r} }

type contextReader struct {
	ctx context.Context
	io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}
