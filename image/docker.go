package image

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"time"
)

// leftOutStep is the prefix of the line that install.sh prints if it can't download the wheels.
const leftOutStep = "step: LEFT OUT:"

// buildWithDocker lets the engine build the image from sandbox.dockerfile. The image is then in the engine; the cache
// contains only the log of the build. The caller must hold the cache's lock.
func buildWithDocker(ctx context.Context, engine Engine, cache cache, opts Options, why string, report *report) (Result, error) {
	log, err := openLog(cache.path(".log"))
	if err != nil {
		return Result{}, err
	}
	defer log.Close()
	report.printLine("building %s in the engine on Docker Hub's debian:trixie-slim, because %s", Ref(), why)
	report.printLine("this takes a few minutes, once")
	began := time.Now()
	report.beginStep("getting the Debian base image")

	source, err := buildContext(opts)
	if err != nil {
		return Result{}, err
	}
	result := Result{Ref: Ref(), Made: true}
	lines := &lineWriter{onLine: func(line string) {
		report.announceStep(line)
		if strings.HasPrefix(line, leftOutStep) {
			result.LeftOutReason = "they could not be downloaded from PyPI"
		}
	}}
	if err := engine.BuildImage(ctx, source, Ref(), io.MultiWriter(log, lines)); err != nil {
		if ctx.Err() != nil {
			return Result{}, ctx.Err()
		}
		return Result{}, fmt.Errorf("%w\n  The way dockerhub needs an engine that can reach Docker Hub and Debian's mirror. The way debian needs only Debian's mirror: use it on Debian or Ubuntu, as root",
			log.wrapError("build the image in the engine", err))
	}
	if result.LeftOutReason != "" {
		for _, wheel := range Wheels() {
			result.LeftOut = append(result.LeftOut, wheel.Name)
		}
	}
	warnLeftOut(report, result)
	report.printLine("%s is ready (%s)", result.Ref, seconds(time.Since(began)))
	return result, nil
}

// buildContext returns the build context for the engine, as a tar stream. It consists of the embedded files, so that an
// installed binary needs no checkout of the source.
func buildContext(opts Options) (io.Reader, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(name, content string) error {
		header := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}
		if err := w.WriteHeader(header); err != nil {
			return err
		}
		_, err := io.WriteString(w, content)
		return err
	}
	args := "ARG MIRROR=\n"
	if opts.Mirror != DefaultMirror {
		args = "ARG MIRROR=" + opts.Mirror + "\n"
	}
	if opts.Rebuild { // REBUILT has another value in each build, so that the engine takes no step from its cache
		args += fmt.Sprintf("ARG REBUILT=%d\n", time.Now().Unix())
	}
	dockerfile := strings.Replace(read("sandbox.dockerfile"), "ARG MIRROR=\n", args, 1)
	if err := add("Dockerfile", dockerfile); err != nil {
		return nil, err
	}
	for _, name := range inputs {
		if err := add("image/"+name, read(name)); err != nil {
			return nil, err
		}
	}
	return &buf, w.Close()
}
