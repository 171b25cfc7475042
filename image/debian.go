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

// sourceDate is the time that files get that are made while the image is built.
const sourceDate = "1793491200" // 2026-11-01

// mmdebstrapArgs makes dir/root.tar of the packages, with dir/image as /image in it
// while setup.sh runs.
func mmdebstrapArgs(packages []string, mirror, dir string) []string {
	return []string{
		"--mode=root", "--variant=minbase", "--format=tar",
		"--include=" + strings.Join(packages, ","),
		`--aptopt=APT::Install-Recommends "false"`,
		"--dpkgopt=" + dir + "/image/dpkg.cfg",
		"--customize-hook=copy-in " + dir + "/image /",
		// An environment of its own: the host's settings for pip and Python are the host's.
		`--customize-hook=chroot "$1" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin sh /image/setup.sh`,
		"trixie", dir + "/root.tar",
		"deb " + mirror + " trixie main",
		"deb " + mirror + " trixie-updates main",
		"deb " + mirror + "-security trixie-security main",
	}
}

// mmdebstrapSteps are the lines with which mmdebstrap begins what takes long.
var mmdebstrapSteps = map[string]string{
	"I: running apt-get update...":                          "reading Debian's package lists",
	"I: downloading packages with apt...":                   "downloading the base system",
	"I: installing essential packages...":                   "installing the base system",
	"I: installing remaining packages inside the chroot...": "downloading and installing the Debian packages",
	"I: creating tarball...":                                "writing the image's files",
}

// buildWithDebian makes the root file system with mmdebstrap. On failure and when ctx
// ends, nothing of it stays but the log.
func buildWithDebian(ctx context.Context, cache cache, opts Options, why string, report *report) (Result, error) {
	log, err := openLog(cache.path(".log"))
	if err != nil {
		return Result{}, err
	}
	defer log.Close()
	report.say("making %s from Debian packages with mmdebstrap, because %s", Ref(), why)
	report.say("this takes a few minutes, once; it is kept in %s", cache.dir)
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
		report.say("WARNING: %v", discard)
	}
	if err != nil {
		return Result{}, err
	}
	report.say("made in %s: %s, %s", seconds(time.Since(began)), megabytes(result.Size), result.Path)
	return result, nil
}

// debianTar makes dir/root.tar.
func debianTar(ctx context.Context, log buildLog, opts Options, dir string, report *report) (Result, error) {
	source := filepath.Join(dir, "image")
	if err := os.CopyFS(source, embedded); err != nil {
		return Result{}, err
	}
	var result Result
	report.step("downloading %d Python wheels", len(Wheels()))
	if err := fetchWheels(ctx, log, runtime.GOARCH, source); err != nil {
		if ctx.Err() != nil {
			return Result{}, ctx.Err()
		}
		if result, err = leaveOut(source, err.Error()); err != nil {
			return Result{}, err
		}
	}

	env := []string{"SOURCE_DATE_EPOCH=" + sourceDate, "TMPDIR=" + dir}
	err := log.run(ctx, env, report.tell, "mmdebstrap", mmdebstrapArgs(Packages(), opts.Mirror, dir)...)
	if ctx.Err() != nil {
		return Result{}, ctx.Err()
	}
	if err != nil {
		return Result{}, log.failure("mmdebstrap with the packages of "+opts.Mirror, err)
	}
	return result, nil
}

// leaveOut makes the build one of Debian's packages alone, and records why.
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

// tools are Debian packages that the host lacks.
type tools struct {
	required []string // without these there is no image
	optional []string // without these there are no wheels
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

// installTools installs what the host lacks, after saying so.
func installTools(ctx context.Context, log buildLog, report *report) error {
	missing := missingTools()
	wanted := append(missing.required, missing.optional...)
	if _, debian := osRelease(); len(wanted) == 0 || !debian {
		return nil
	}
	report.step("installing %s on this machine with apt-get", list(wanted))
	env := []string{"DEBIAN_FRONTEND=noninteractive"}
	if err := log.run(ctx, env, nil, "apt-get", "update"); err != nil && ctx.Err() == nil {
		report.say("apt-get update failed; going on with the package lists that are here")
	}
	install := func(names []string) error {
		if len(names) == 0 {
			return nil
		}
		args := append([]string{"install", "--yes", "--no-install-recommends"}, names...)
		return log.run(ctx, env, nil, "apt-get", args...)
	}
	if err := install(missing.required); err != nil {
		return log.failure(fmt.Sprintf("install %s", list(missing.required)), err)
	}
	_ = install(missing.optional) // fetchWheels says what follows from it
	return ctx.Err()
}
