package image

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"
)

// Engine is what an engine can do with images.
type Engine interface {
	HasImage(ctx context.Context, ref string) (bool, error)
	// ImportImage makes an image of a root file system in a tar stream. Changes are lines of a Dockerfile.
	ImportImage(ctx context.Context, root io.Reader, ref string, changes ...string) error
	// BuildImage builds the Dockerfile at the root of a build context in a tar stream.
	BuildImage(ctx context.Context, buildContext io.Reader, ref string, log io.Writer) error
}

// Options is how an image is made. The zero value is right for nearly everybody.
type Options struct {
	// Way is how: [Auto], [Debian] or [DockerHub].
	Way Way
	// Mirror is where Debian's packages come from. Empty: [DefaultMirror]. Its security
	// updates are looked for at the same address with "-security" after it.
	Mirror string
	// Rebuild makes the image again although it is there.
	Rebuild bool
	// CacheDir is the folder that holds built images. Empty: [CacheDir].
	CacheDir string
}

// DefaultMirror is Debian's own.
const DefaultMirror = "http://deb.debian.org/debian"

func (o Options) withDefaults() (Options, error) {
	if o.Mirror == "" {
		o.Mirror = DefaultMirror
	}
	if o.Way == "" {
		o.Way = Auto
	}
	if o.Way != Auto && o.Way != Debian && o.Way != DockerHub {
		return o, fmt.Errorf("no way to build an image is called %q: there are %s, %s and %s", o.Way, Auto, Debian, DockerHub)
	}
	if o.CacheDir == "" {
		dir, err := CacheDir()
		if err != nil {
			return o, err
		}
		o.CacheDir = dir
	}
	return o, nil
}

// Result is an image that is there.
type Result struct {
	Ref string `json:"ref"`
	// Path is the root file system as a tar file; empty if only the engine has it.
	Path string `json:"path,omitempty"`
	Size int64  `json:"size,omitempty"`
	// Made is true if this call made it, rather than found it.
	Made bool `json:"made"`
	// LeftOut names the packages that should be in it and are not, with the reason.
	LeftOut       []string `json:"left_out,omitempty"`
	LeftOutReason string   `json:"left_out_reason,omitempty"`
}

// Ensure brings the image named [Ref] into the engine: nothing if it is there, an import
// if it was built before, else a build. It writes to progress what takes long, in lines for
// a person. Of callers at the same time one builds, and the others wait and find it built.
func Ensure(ctx context.Context, engine Engine, opts Options, progress io.Writer) (Result, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return Result{}, err
	}
	cache := cache{dir: opts.CacheDir}
	if !opts.Rebuild {
		switch has, err := engine.HasImage(ctx, Ref()); {
		case err != nil:
			return Result{}, err
		case has:
			result, _ := cache.find() // for its size and what was left out, if it is from here
			result.Ref = Ref()
			return result, nil
		}
	}

	unlock, err := cache.lock(ctx, progress)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	report := newReport(progress)
	defer report.close()

	result, found := cache.find()
	if !found || opts.Rebuild {
		way, why, err := choose(opts.Way)
		if err != nil {
			return Result{}, err
		}
		if way == DockerHub {
			return buildWithDocker(ctx, engine, cache, opts, why, report)
		}
		if result, err = buildWithDebian(ctx, cache, opts, why, report); err != nil {
			return Result{}, err
		}
	}
	warnLeftOut(report, result)
	return result, importTar(ctx, engine, result, report)
}

// Build makes the root file system of the image as a tar file in the cache, for engines
// that unpack images themselves; nothing if it is there.
func Build(ctx context.Context, opts Options, progress io.Writer) (Result, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return Result{}, err
	}
	cache := cache{dir: opts.CacheDir}
	if result, found := cache.find(); found && !opts.Rebuild {
		return result, nil
	}
	unlock, err := cache.lock(ctx, progress)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	if result, found := cache.find(); found && !opts.Rebuild {
		return result, nil // somebody else's, while we waited
	}
	if opts.Way == DockerHub {
		return Result{}, fmt.Errorf("way %s builds inside a Docker engine and makes no file: use %s or %s", DockerHub, Debian, Auto)
	}
	why, err := debianWorks()
	if err != nil {
		return Result{}, fmt.Errorf("the image's files cannot be built here: %w", err)
	}
	report := newReport(progress)
	defer report.close()
	result, err := buildWithDebian(ctx, cache, opts, why, report)
	if err != nil {
		return Result{}, err
	}
	warnLeftOut(report, result)
	return result, nil
}

func importTar(ctx context.Context, engine Engine, result Result, report *report) error {
	tar, err := os.Open(result.Path)
	if err != nil {
		return err
	}
	defer tar.Close()
	began := time.Now()
	report.step("bringing it into the engine (%s)", megabytes(result.Size))
	if err := engine.ImportImage(ctx, tar, result.Ref, changes()...); err != nil {
		return fmt.Errorf("import %s: %w", result.Path, err)
	}
	report.say("%s is ready (import %s)", result.Ref, seconds(time.Since(began)))
	return nil
}

// warnLeftOut says loudly what an image lacks, each time that it is made or imported.
func warnLeftOut(report *report, result Result) {
	if len(result.LeftOut) == 0 {
		return
	}
	report.say("WARNING: %d Python packages are LEFT OUT of this image: %s", len(result.LeftOut), result.LeftOutReason)
	report.say("WARNING: it lacks %s", list(result.LeftOut))
	report.say("WARNING: once PyPI can be reached, `dormouse image build --rebuild` makes it whole")
}
