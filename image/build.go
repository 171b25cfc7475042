package image

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"
)

// Engine is the part of an engine that handles images. [Ensure] needs it.
type Engine interface {
	HasImage(ctx context.Context, ref string) (bool, error)
	// ImportImage makes an image named ref from a tar stream of a root file system. Each of changes is a Dockerfile line
	// that sets a part of the image's configuration.
	ImportImage(ctx context.Context, root io.Reader, ref string, changes ...string) error
	// BuildImage builds an image named ref from a tar stream of a build context with the Dockerfile at its root. It writes
	// the output of the build to log.
	BuildImage(ctx context.Context, buildContext io.Reader, ref string, log io.Writer) error
}

// Options controls how an image is built. The zero value is right for almost all uses.
type Options struct {
	// Way is [Auto], [Debian] or [DockerHub]. If it is empty, [Auto] is used.
	Way Way
	// Mirror is the URL of a mirror of Debian's packages. If it is empty, [DefaultMirror] is used. Security updates come
	// from the same URL with "-security" appended.
	Mirror string
	// Rebuild builds the image even if it already exists.
	Rebuild bool
	// CacheDir is the folder for built images. If it is empty, the function [CacheDir] chooses the folder.
	CacheDir string
}

// DefaultMirror is Debian's own package server.
const DefaultMirror = "http://deb.debian.org/debian"

func (o Options) withDefaults() (Options, error) {
	if o.Mirror == "" {
		o.Mirror = DefaultMirror
	}
	if o.Way == "" {
		o.Way = Auto
	}
	if o.Way != Auto && o.Way != Debian && o.Way != DockerHub {
		return o, fmt.Errorf("%q is not a way to build an image: use %s, %s or %s", o.Way, Auto, Debian, DockerHub)
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

// Result describes an image that exists, either in the engine or as a tar file.
type Result struct {
	Ref string `json:"ref"`
	// Path is the tar file of the root file system. It is empty if only the engine has the image.
	Path string `json:"path,omitempty"`
	Size int64  `json:"size,omitempty"`
	// Made is true if this call built the image, and false if it already existed.
	Made bool `json:"made"`
	// LeftOut lists the names of the PyPI packages that the build left out of the image. LeftOutReason is the reason, as
	// text for the user.
	LeftOut       []string `json:"left_out,omitempty"`
	LeftOutReason string   `json:"left_out_reason,omitempty"`
}

// Ensure makes sure that the engine has the image named [Ref]. If the engine has the image, Ensure does nothing. If the
// cache has the image, Ensure imports it into the engine. Otherwise Ensure builds it. With Options.Rebuild, Ensure always
// builds it. Ensure writes progress messages for the user to progress.
//
// If several calls run at the same time, also in different processes, only one of them builds or imports the image. The
// others wait, and then find the image in the engine or, if they use another engine, in the cache.
func Ensure(ctx context.Context, engine Engine, opts Options, progress io.Writer) (Result, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return Result{}, err
	}
	cache := cache{dir: opts.CacheDir}
	if !opts.Rebuild {
		if result, has, err := cache.inEngine(ctx, engine); err != nil || has {
			return result, err
		}
	}

	unlock, err := cache.lock(ctx, progress)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	if !opts.Rebuild { // another call may have built or imported the image while this call waited for the lock
		if result, has, err := cache.inEngine(ctx, engine); err != nil || has {
			return result, err
		}
	}
	report := newReport(progress)
	defer report.close()

	result, found := cache.find()
	if !found || opts.Rebuild {
		way, why, err := chooseWay(opts.Way)
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

// inEngine reports whether the engine has the image. If the cache has the image too, the Result contains its size and the
// packages that were left out.
func (c cache) inEngine(ctx context.Context, engine Engine) (Result, bool, error) {
	has, err := engine.HasImage(ctx, Ref())
	if err != nil || !has {
		return Result{}, false, err
	}
	result, _ := c.find()
	result.Ref = Ref()
	return result, true, nil
}

func importTar(ctx context.Context, engine Engine, result Result, report *report) error {
	tar, err := os.Open(result.Path)
	if err != nil {
		return err
	}
	defer tar.Close()
	began := time.Now()
	report.beginStep("importing it into the engine (%s)", megabytes(result.Size))
	if err := engine.ImportImage(ctx, tar, result.Ref, changes()...); err != nil {
		return fmt.Errorf("import %s: %w", result.Path, err)
	}
	report.printLine("%s is ready (import %s)", result.Ref, seconds(time.Since(began)))
	return nil
}

// warnLeftOut prints a warning if packages are missing from the image. It is called each time the image is built or
// imported.
func warnLeftOut(report *report, result Result) {
	if len(result.LeftOut) == 0 {
		return
	}
	report.printLine("WARNING: %d Python packages are LEFT OUT of this image: %s", len(result.LeftOut), result.LeftOutReason)
	report.printLine("WARNING: the missing packages are %s", list(result.LeftOut))
	report.printLine("WARNING: when PyPI can be reached, run `dormouse image build --rebuild` to add them")
}
