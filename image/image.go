// Package image builds the default sandbox image. The image can be built in two ways, from the same packages.
//
//   - The packages: packages.txt (Debian) and requirements.txt (PyPI, pinned by pin.py), which
//     [Packages] and [Wheels] read (lists.go)
//   - The steps that turn a root file system with these packages into the image, the same for both ways: setup.sh,
//     inventory.py, dpkg.cfg and hosts
//   - [Ref], the name of the image, which contains a hash of all files that decide the contents of the image (image.go)
//   - [Ensure], which brings the image into an engine (build.go), and the choice of the way to build it (way.go)
//   - The two ways: Debian's mmdebstrap (debian.go, wheels.go), and a docker build on an image from
//     Docker Hub (docker.go, sandbox.dockerfile)
//   - The cache of built images, which all homes share (cache.go)
//   - Progress messages for the user (progress.go), and running other programs (run.go)
//
// The package runs no sandboxes. Of an engine it needs only the methods of [Engine]. Any other image that has python3 or
// node works as a sandbox image too; README.md describes how.
package image

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"runtime"
	"strings"
	"sync"
)

// inputs are the files that decide the contents of the image, and thus its name.
var inputs = []string{
	"dpkg.cfg", "hosts", "install.sh", "inventory.py", "packages.txt", "requirements.txt", "sandbox.dockerfile", "setup.sh",
}

//go:embed dpkg.cfg hosts install.sh inventory.py packages.txt requirements.txt sandbox.dockerfile setup.sh
var embedded embed.FS

// Repository is the name of the image without its tag.
const Repository = "dormouse-sandbox"

// Ref returns the name of the image that this version of Dormouse builds and uses by default: dormouse-sandbox:<hash>.
// The hash changes if an input of the image changes, and only then, so that versions of Dormouse with the same inputs
// share the image.
func Ref() string { return Repository + ":" + hash() }

// changes returns the image's configuration (environment and labels) as lines of a Dockerfile.
func changes() []string {
	return []string{
		"ENV PATH=/usr/local/bin:/usr/bin:/bin",
		"ENV LANG=C.UTF-8",
		"LABEL dormouse.image=" + hash(),
	}
}

var hash = sync.OnceValue(func() string { return hashOf(runtime.GOARCH, read) })

// hashOf returns 12 hex digits of a hash over the input files, the arguments of mmdebstrap and pip, and the architecture.
func hashOf(arch string, read func(name string) string) string {
	h := sha256.New()
	add := func(name, content string) { fmt.Fprintf(h, "%s %d\n%s\n", name, len(content), content) }
	for _, name := range inputs {
		add(name, read(name))
	}
	add("arch", arch)
	add("mmdebstrap", strings.Join(mmdebstrapArgs(parsePackages(read("packages.txt")), "MIRROR", "WORK"), "\n"))
	add("pip", strings.Join(pipArgs(arch, "WORK"), "\n"))
	return hex.EncodeToString(h.Sum(nil))[:12]
}

// read returns the content of an embedded file.
func read(name string) string {
	b, err := embedded.ReadFile(name)
	if err != nil {
		panic(err) // inputs and the go:embed directive disagree
	}
	return string(b)
}
