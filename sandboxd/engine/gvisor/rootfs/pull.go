package rootfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	ocilayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/dormouse-sandbox/dormouse/image"
	"github.com/dormouse-sandbox/dormouse/sandboxd/durable"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// pullTimeout limits the duration of a pull. A pull continues after the caller that started it has returned, so that a
// later caller finds the image.
const pullTimeout = 15 * time.Minute

// pulls holds the pulls in progress, at most one for each image name.
type pulls struct {
	mu         sync.Mutex
	inProgress map[string]*pull
}

type pull struct {
	done chan struct{}
	img  Image
	err  error
}

// FindOrPull returns the image with the name ref. If it is missing, FindOrPull pulls it from its registry and waits until
// that is done or ctx ends. It does not pull an image of Dormouse's own, which is in no registry.
func (i *Images) FindOrPull(ctx context.Context, ref string) (Image, error) {
	img, err := i.Find(ref)
	if sandbox.KindOf(err) != sandbox.Unavailable || strings.HasPrefix(ref, image.Repository+":") {
		return img, err
	}
	p, err := i.startOrJoin(ref)
	if err != nil {
		return Image{}, err
	}
	select {
	case <-p.done:
		return p.img, p.err
	case <-ctx.Done():
		return Image{}, sandbox.Errorf(sandbox.Unavailable, "the image %s is still being pulled from its registry: try again in a minute", sandbox.Quote(ref)).WithCause(ctx.Err())
	}
}

// startOrJoin returns the pull of an image that is in progress, or starts one.
func (i *Images) startOrJoin(ref string) (*pull, error) {
	named, err := name.ParseReference(ref)
	if err != nil {
		return nil, sandbox.Errorf(sandbox.Invalid, "%s is not the name of an image", sandbox.Quote(ref)).WithCause(err)
	}
	l := &i.pulls
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.inProgress[ref]; p != nil {
		return p, nil
	}
	if err := i.ctx.Err(); err != nil {
		return nil, err
	}
	p := &pull{done: make(chan struct{})}
	if l.inProgress == nil {
		l.inProgress = map[string]*pull{}
	}
	l.inProgress[ref] = p
	i.background.Go(func() {
		ctx, cancel := context.WithTimeout(i.ctx, pullTimeout)
		defer cancel()
		p.img, p.err = i.pull(ctx, named, ref)
		l.mu.Lock()
		delete(l.inProgress, ref)
		l.mu.Unlock()
		close(p.done)
	})
	return p, nil
}

func (i *Images) pull(ctx context.Context, named name.Reference, ref string) (Image, error) {
	img, err := remote.Image(named, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithPlatform(platform()),
		remote.WithTransport(boundedTransport{remote.DefaultTransport}))
	var made Image
	if err == nil {
		err = checkManifest(img)
	}
	if err == nil {
		made, err = i.add(ctx, img, ref)
		// If the disk is full, return an error that names the disk. The error below would name the registry as the
		// cause.
		err = folder.ExplainFullDisk(err, i.Dir)
	}
	var known *sandbox.Error
	if err == nil || errors.As(err, &known) {
		return made, err
	}
	return Image{}, sandbox.Errorf(sandbox.Unavailable,
		"the image %s is not on this machine, and could not be pulled from %s: check the name and that the registry can be reached, or load the image with `dormouse image load`",
		sandbox.Quote(ref), sandbox.Quote(named.Context().RegistryStr())).WithCause(err)
}

func platform() v1.Platform { return v1.Platform{OS: "linux", Architecture: runtime.GOARCH} }

// Load imports an image from the folder of an OCI layout, or from a tar that `docker save` made. It returns the name
// of the image: ref, or the name that the image has in the layout or tar if ref is empty.
func (i *Images) Load(ctx context.Context, path, ref string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", sandbox.Errorf(sandbox.Invalid, "there is no image at %s", sandbox.Quote(path)).WithCause(err)
	}
	var img v1.Image
	var own string
	switch {
	case info.IsDir():
		img, own, err = fromLayout(path)
	case info.Mode().IsRegular():
		img, own, err = fromTar(ctx, path)
	default:
		err = errors.New("it is neither a file nor a folder")
	}
	var known *sandbox.Error
	if errors.As(err, &known) {
		return "", err
	}
	if err != nil {
		return "", sandbox.Errorf(sandbox.Invalid, "%s is not an image archive; pass an OCI layout directory or a `docker save` tar", sandbox.Quote(path)).WithCause(err)
	}
	if ref == "" {
		ref = own
	}
	if ref == "" {
		return "", sandbox.Errorf(sandbox.Invalid, "the image has no name: give it one")
	}
	_, err = i.add(ctx, img, ref)
	return ref, folder.ExplainFullDisk(err, i.Dir)
}

// fromTar returns the image of a `docker save` tar, and the name of the image. The layers of the image can be read
// until ctx ends.
func fromTar(ctx context.Context, path string) (v1.Image, string, error) {
	open := func() (io.ReadCloser, error) {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		return contextFile{file, ctx}, nil
	}
	described, err := checkArchive(open)
	if err != nil {
		return nil, "", err
	}
	own := ""
	if len(described.RepoTags) > 0 {
		own = described.RepoTags[0]
	}
	img, err := tarball.Image(open, nil)
	return img, own, err
}

// contextFile is a file whose Read fails after ctx has ended.
type contextFile struct {
	*os.File
	ctx context.Context
}

func (f contextFile) Read(p []byte) (int, error) {
	if err := f.ctx.Err(); err != nil {
		return 0, err
	}
	return f.File.Read(p)
}

// fromLayout returns the image for this machine in an OCI layout, and the name of the image.
func fromLayout(path string) (v1.Image, string, error) {
	if err := checkFile(filepath.Join(path, "index.json"), maxManifestBytes, "index"); err != nil {
		return nil, "", err
	}
	index, err := ocilayout.ImageIndexFromPath(path)
	if err != nil {
		return nil, "", err
	}
	return fromIndex(path, index, "", 0)
}

func fromIndex(path string, index v1.ImageIndex, own string, depth int) (v1.Image, string, error) {
	text, err := index.RawManifest()
	if err == nil {
		err = checkJSON(text, maxManifestBytes, "index")
	}
	if err != nil {
		return nil, "", err
	}
	list, err := index.IndexManifest()
	if err != nil {
		return nil, "", err
	}
	var fit []v1.Descriptor
	for _, d := range list.Manifests {
		if (d.MediaType.IsImage() || d.MediaType.IsIndex()) && (d.Platform == nil || d.Platform.Satisfies(platform())) {
			fit = append(fit, d)
		}
	}
	if len(fit) != 1 || depth > 3 {
		return nil, "", sandbox.Errorf(sandbox.Invalid, "it has %d images for linux/%s, and must have one", len(fit), runtime.GOARCH)
	}
	for _, key := range []string{"io.containerd.image.name", "org.opencontainers.image.ref.name"} {
		if said := fit[0].Annotations[key]; own == "" && said != "" {
			own = said
		}
	}
	if err := checkFile(blobFile(path, fit[0].Digest), maxManifestBytes, "manifest"); err != nil {
		return nil, "", err
	}
	if fit[0].MediaType.IsIndex() {
		below, err := index.ImageIndex(fit[0].Digest)
		if err != nil {
			return nil, "", err
		}
		return fromIndex(path, below, own, depth+1)
	}
	img, err := index.Image(fit[0].Digest)
	if err == nil {
		err = checkBlobs(path, img)
	}
	return img, own, err
}

// add unpacks an image, if it is not unpacked yet, and gives it the name ref. The image's digest is the sha256 of its
// configuration, which contains the digests of its layers. add checks all of these digests, from every source.
func (i *Images) add(ctx context.Context, img v1.Image, ref string) (Image, error) {
	raw, err := img.RawConfigFile()
	if err != nil {
		return Image{}, err
	}
	if err := checkJSON(raw, maxConfigBytes, "configuration"); err != nil {
		return Image{}, err
	}
	sum := sha256.Sum256(raw)
	digest := hex.EncodeToString(sum[:])
	if said, err := img.ConfigName(); err != nil || said.Hex != digest {
		return Image{}, errors.Join(errors.New("the image's configuration does not have the digest in its manifest"), err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		return Image{}, err
	}
	if config.OS != "" && config.OS != "linux" || config.Architecture != "" && config.Architecture != runtime.GOARCH {
		return Image{}, sandbox.Errorf(sandbox.Invalid, "the image %s is for %s/%s, and sandboxes here are linux/%s",
			sandbox.Quote(ref), sandbox.Quote(config.OS), sandbox.Quote(config.Architecture), runtime.GOARCH)
	}
	layers, err := img.Layers()
	if err != nil {
		return Image{}, err
	}
	if len(layers) > maxLayers {
		return Image{}, tooManyLayers(len(layers))
	}
	if len(layers) != len(config.RootFS.DiffIDs) {
		return Image{}, fmt.Errorf("the image has %d layers, and its configuration %d", len(layers), len(config.RootFS.DiffIDs))
	}
	if _, err := os.Stat(i.Root(digest)); err != nil {
		if err := i.addLayers(ctx, digest, layers, config.RootFS.DiffIDs); err != nil {
			return Image{}, err
		}
	}
	made := Image{Ref: ref, Digest: digest}
	for _, kv := range config.Config.Env {
		if path, is := strings.CutPrefix(kv, "PATH="); is {
			made.Path = path
		}
	}
	return made, i.name(made)
}

func (i *Images) addLayers(ctx context.Context, digest string, layers []v1.Layer, want []v1.Hash) error {
	return i.withImportLock(ctx, func(rootfs string) (string, error) {
		var readers []io.Reader
		for n, layer := range layers {
			l := &layerReader{ctx: ctx, layer: layer, want: want[n]}
			defer l.close()
			readers = append(readers, l)
		}
		return digest, i.unpackLayers(ctx, rootfs, readers...)
	})
}

// layerReader reads the uncompressed tar of a layer. It opens the layer at the first Read, and checks the digest when
// it has read the whole layer. The caller must call close.
type layerReader struct {
	ctx   context.Context
	layer v1.Layer
	want  v1.Hash
	open  io.ReadCloser
	sum   interface {
		io.Writer
		Sum([]byte) []byte
	}
}

func (l *layerReader) Read(p []byte) (int, error) {
	if err := l.ctx.Err(); err != nil {
		return 0, err
	}
	if l.open == nil {
		// A layer that is not distributable would be downloaded from a server other than the registry. The user has
		// not chosen that server.
		if kind, err := l.layer.MediaType(); err != nil || !kind.IsDistributable() {
			return 0, errors.Join(fmt.Errorf("a layer of the media type %q is not distributable", kind), err)
		}
		open, err := l.layer.Uncompressed()
		if err != nil {
			return 0, err
		}
		l.open, l.sum = open, sha256.New()
	}
	n, err := l.open.Read(p)
	l.sum.Write(p[:n])
	if err == io.EOF && (l.want.Algorithm != "sha256" || hex.EncodeToString(l.sum.Sum(nil)) != l.want.Hex) {
		err = errors.New("a layer does not have the digest in the image's configuration")
	}
	return n, err
}

func (l *layerReader) close() {
	if l.open != nil {
		l.open.Close()
	}
}

// name writes and syncs the file that connects an image's name with its digest.
func (i *Images) name(img Image) error {
	file := i.refFile(img.Ref)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	text, err := json.MarshalIndent(img, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(file, append(text, '\n'), 0o600)
}
