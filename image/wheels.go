package image

import (
	"context"
	"fmt"
	"os/exec"
)

// machines maps Go's names of architectures to the names that the file names of wheels use.
var machines = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}

// pipArgs returns the arguments with which python3 downloads the wheels of dir/requirements.txt to dir/wheels. The
// arguments select wheels for the image's version of Python, which may differ from the host's. setup.sh later installs
// the wheels in the image, without network access.
func pipArgs(arch, dir string) []string {
	args := []string{
		"-m", "pip", "download", "--no-input", "--disable-pip-version-check", "--progress-bar=off", "--retries=1",
		"--dest=" + dir + "/wheels", "--requirement=" + dir + "/requirements.txt",
		"--no-deps", "--only-binary=:all:", "--require-hashes",
		"--python-version=3.13", "--implementation=cp", "--platform=manylinux2014_" + machines[arch],
	}
	for glibc := 17; glibc <= 41; glibc++ { // the image is based on Debian trixie, which has glibc 2.41
		args = append(args, fmt.Sprintf("--platform=manylinux_2_%d_%s", glibc, machines[arch]))
	}
	return args
}

// fetchWheels downloads the wheels into dir/wheels. Its error is text for the user that says why the wheels are missing,
// or ctx's error if ctx has ended.
func fetchWheels(ctx context.Context, log buildLog, arch, dir string) error {
	if machines[arch] == "" {
		return fmt.Errorf("no wheels are pinned for %s", arch)
	}
	if exec.CommandContext(ctx, "python3", "-m", "pip", "--version").Run() != nil {
		return fmt.Errorf("this machine's python3 has no pip to download them with (Debian: apt-get install python3-pip)")
	}
	if err := log.run(ctx, nil, nil, "python3", pipArgs(arch, dir)...); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("they could not be downloaded from PyPI (the reason is in %s)", log.Name())
	}
	return nil
}
