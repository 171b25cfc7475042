package image

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// sourceDate is the modification time, in Unix seconds, of files that are created while the image is built.
const sourceDate = "1793491200" // 2026-11-01

// mmdebstrapArgs returns the arguments with which mmdebstrap makes dir/root.tar from the packages. With these arguments,
// mmdebstrap also copies dir/image to /image in the new root file system and runs setup.sh there.
func mmdebstrapArgs(packages []string, mirror, dir string) []string {
	return []string{
		"--mode=root", "--variant=minbase", "--format=tar",
		"--include=" + strings.Join(packages, ","),
		`--aptopt=APT::Install-Recommends "false"`,
		"--dpkgopt=" + dir + "/image/dpkg.cfg",
		"--customize-hook=copy-in " + dir + "/image /",
		// env -i clears the environment, so that the host's settings for pip and Python do not affect the image.
		`--customize-hook=chroot "$1" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin sh /image/setup.sh`,
		"trixie", dir + "/root.tar",
		"deb " + mirror + " trixie main",
		"deb " + mirror + " trixie-updates main",
		"deb " + mirror + "-security trixie-security main",
	}
}

// mmdebstrapSteps maps the lines that mmdebstrap prints before its slow steps to progress messages.
var mmdebstrapSteps = map[string]string{
	"I: running apt-get update...":                          "reading Debian's package lists",
	"I: downloading packages with apt...":                   "downloading the base system",
	"I: installing essential packages...":                   "installing the base system",
	"I: installing remaining packages inside the chroot...": "downloading and installing the Debian packages",
	"I: creating tarball...":                                "writing the image's files",
}

// buildWithDebian makes the root file system with mmdebstrap and moves it into the cache. If the build fails or ctx ends,
// only the log remains. The caller must hold the cache's lock.
func buildWithDebian(ctx context.Context, cache cache, opts Options, why string, report *report) (Result, error) {
	log, err := openLog(cache.path(".log"))
	if err != nil {
		return Result{}, err
	}
	defer log.Close()
	report.printLine("making %s from Debian packages with mmdebstrap, because %s", Ref(), why)
	report.printLine("this takes a few minutes, once; it is kept in %s", cache.dir)
	began := time.Now()

	if err := installTools(ctx, log, report); err != nil {
		return Result{}, err
	}
	dir, err := cache.workDir()
	if err != nil {
		return Result{}, err
	}
	result, err := debianTar(ctx, log, opts, dir, report)
	if err == nil {
		result, err = cache.keep(filepath.Join(dir, "root.tar"), result)
	}
	if discard := cache.discard(dir); discard != nil && err == nil {
		report.printLine("WARNING: %v", discard)
	}
	if err != nil {
		return Result{}, err
	}
	report.printLine("made in %s: %s, %s", seconds(time.Since(began)), megabytes(result.Size), result.Path)
	return result, nil
}

// debianTar makes dir/root.tar. If the wheels can't be downloaded, debianTar builds the image without the wheels and
// lists them in Result.LeftOut.
func debianTar(ctx context.Context, log buildLog, opts Options, dir string, report *report) (Result, error) {
	source := filepath.Join(dir, "image")
	if err := os.CopyFS(source, embedded); err != nil {
		return Result{}, err
	}
	var result Result
	report.beginStep("downloading %d Python wheels", len(Wheels()))
	if err := fetchWheels(ctx, log, runtime.GOARCH, source); err != nil {
		if ctx.Err() != nil {
			return Result{}, ctx.Err()
		}
		if result, err = leaveOut(source, err.Error()); err != nil {
			return Result{}, err
		}
	}

	env := []string{"SOURCE_DATE_EPOCH=" + sourceDate, "TMPDIR=" + dir}
	err := log.run(ctx, env, report.announceStep, "mmdebstrap", mmdebstrapArgs(Packages(), opts.Mirror, dir)...)
	if ctx.Err() != nil {
		return Result{}, ctx.Err()
	}
	if err != nil {
		return Result{}, log.wrapError("mmdebstrap with the packages of "+opts.Mirror, err)
	}
	return result, nil
}

// leaveOut removes the wheels from the folder source and writes the reason to the file left-out in this folder, which
// setup.sh reads. It returns a Result with the names of the wheels and the reason.
func leaveOut(source, reason string) (Result, error) {
	if err := os.RemoveAll(filepath.Join(source, "wheels")); err != nil {
		return Result{}, err
	}
	result := Result{LeftOutReason: reason}
	for _, wheel := range Wheels() {
		result.LeftOut = append(result.LeftOut, wheel.Name)
	}
	return result, os.WriteFile(filepath.Join(source, "left-out"), []byte(reason+"\n"), 0o644)
}

// tools lists Debian packages that a build needs on the host.
type tools struct {
	required []string // without these packages, no image can be built
	optional []string // without these packages, the image can be built, but without the wheels
}

const debianKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

func missingTools() tools {
	var missing tools
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		missing.required = append(missing.required, "mmdebstrap")
	}
	if _, err := os.Stat(debianKeyring); err != nil {
		missing.required = append(missing.required, "debian-archive-keyring")
	}
	if exec.Command("python3", "-m", "pip", "--version").Run() != nil {
		missing.optional = append(missing.optional, "python3-pip")
	}
	return missing
}

// installTools prints a progress message and installs the missing tools on the host with apt-get. It does nothing if no
// tool is missing, and on systems other than Debian and its derivatives.
func installTools(ctx context.Context, log buildLog, report *report) error {
	missing := missingTools()
	wanted := append(missing.required, missing.optional...)
	if _, debian := osRelease(); len(wanted) == 0 || !debian {
		return nil
	}
	report.beginStep("installing %s on this machine with apt-get", list(wanted))
	env := []string{"DEBIAN_FRONTEND=noninteractive"}
	if err := log.run(ctx, env, nil, "apt-get", "update"); err != nil && ctx.Err() == nil {
		report.printLine("apt-get update failed; continuing with the existing package lists")
	}
	install := func(names []string) error {
		if len(names) == 0 {
			return nil
		}
		args := append([]string{"install", "--yes", "--no-install-recommends"}, names...)
		return log.run(ctx, env, nil, "apt-get", args...)
	}
	if err := install(missing.required); err != nil {
		return log.wrapError(fmt.Sprintf("install %s", list(missing.required)), err)
	}
	_ = install(missing.optional) // the error is ignored: fetchWheels later fails too and reports that pip is missing
	return ctx.Err()
}
