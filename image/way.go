package image

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
)

// Way is a way to build the image.
type Way string

const (
	// Auto chooses Debian if it works on this machine, and DockerHub otherwise.
	Auto Way = "auto"
	// Debian builds the image with mmdebstrap from Debian's packages, without Docker. It needs root. On a machine other
	// than Debian or Ubuntu, mmdebstrap and Debian's keyring must be installed.
	Debian Way = "debian"
	// DockerHub lets the engine build the image from Docker Hub's Debian image. It needs an engine that can reach Docker
	// Hub and Debian's mirror.
	DockerHub Way = "dockerhub"
)

// chooseWay returns the way to build the image, and the reason for the choice as text for the user. If Debian is wanted
// and does not work on this machine, chooseWay returns an error.
func chooseWay(wanted Way) (Way, string, error) {
	if wanted == DockerHub {
		return DockerHub, "this way was requested", nil
	}
	why, err := debianWorks()
	switch {
	case err == nil:
		return Debian, why, nil
	case wanted == Debian:
		return "", "", err
	}
	return DockerHub, err.Error(), nil
}

// debianWorks reports whether mmdebstrap can build the image on this machine. If mmdebstrap can, why is the reason;
// otherwise the error is the reason. Both are text for the user.
func debianWorks() (why string, err error) {
	if runtime.GOOS != "linux" {
		return "", fmt.Errorf("mmdebstrap needs Linux, and this is %s", runtime.GOOS)
	}
	if os.Geteuid() != 0 {
		return "", fmt.Errorf("mmdebstrap needs root, and this process does not run as root")
	}
	tools := missingTools()
	if len(tools.required) == 0 {
		return "this machine has mmdebstrap, and this process runs as root", nil
	}
	system, family := osRelease()
	if !family {
		return "", fmt.Errorf("%s must be installed, which dormouse can do only on Debian and Ubuntu, and this is %s", strings.Join(tools.required, ", "), system)
	}
	return fmt.Sprintf("this is %s, and this process runs as root", system), nil
}

// osRelease returns the name of the Linux system, and whether it is Debian, Ubuntu or a derivative of either.
func osRelease() (name string, debian bool) {
	content, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "an unknown system", false
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(content)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		fields[key] = strings.Trim(value, `"`)
	}
	ids := append(strings.Fields(fields["ID_LIKE"]), fields["ID"])
	return fields["PRETTY_NAME"], slices.Contains(ids, "debian") || slices.Contains(ids, "ubuntu")
}
