// Package image is the default sandbox image: one list of packages, and two ways to
// make an image of it.
//
//   - what is in it: packages.txt (Debian), requirements.txt (PyPI, pinned by pin.py),
//     and [Packages], [Wheels] (lists.go)
//   - how a root becomes the image, whichever way it was made: setup.sh, inventory.py, dpkg.cfg
//   - [Ref], its name, which is a hash over all of these (image.go)
//   - [Ensure], which brings it into an engine, and [Build], which makes its root file
//     system (build.go); which way they take and why (way.go)
//   - the way of Debian, mmdebstrap (debian.go, wheels.go), and of Docker Hub (docker.go, sandbox.dockerfile)
//   - what was built once is kept for every home (cache.go)
//   - what a person sees of it (progress.go), and how other programs are run (run.go)
//
// Any other image that has python3 or node works as a sandbox too; README.md says how.
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

// inputs are the files that decide what is in the image, and so its name.
var inputs = []string{
	"dpkg.cfg", "hosts", "install.sh", "inventory.py", "packages.txt", "requirements.txt", "sandbox.dockerfile", "setup.sh",
}

//go:embed dpkg.cfg hosts install.sh inventory.py packages.txt requirements.txt sandbox.dockerfile setup.sh
var embedded embed.FS

// Repository is the name of the image without its tag.
const Repository = "dormouse-sandbox"

// Ref is the name of the image that this build of Dormouse makes and uses by default:
// dormouse-sandbox:<hash>. It changes when, and only when, something changes that
// decides what is in the image.
func Ref() string { return Repository + ":" + hash() }

// changes is how containers of the image run unless told otherwise, as lines of a Dockerfile.
func changes() []string {
	return []string{
		"ENV PATH=/usr/local/bin:/usr/bin:/bin",
		"ENV LANG=C.UTF-8",
		"LABEL dormouse.image=" + hash(),
	}
}

var hash = sync.OnceValue(func() string { return hashOf(runtime.GOARCH, read) })

// hashOf names what the files and the calls that use them make on an architecture: 12 hex digits.
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

// read returns an embedded file.
func read(name string) string {
	b, err := embedded.ReadFile(name)
	if err != nil {
		panic(err) // the list above and the directive beside it disagree
	}
	return string(b)
}
