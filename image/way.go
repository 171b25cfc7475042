package image

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
)

// Way is how an image is made.
type Way string

const (
	// Auto takes Debian if it works on this machine, else DockerHub.
	Auto Way = "auto"
	// Debian makes it with mmdebstrap from Debian's packages alone, without Docker: root on Debian or Ubuntu.
	Debian Way = "debian"
	// DockerHub has the engine build it on Docker Hub's Debian image: any machine with an engine that reaches it.
	DockerHub Way = "dockerhub"
)

// choose returns the way to take and, for a person, why.
func choose(wanted Way) (Way, string, error) {
	if wanted == DockerHub {
		return DockerHub, "that is the way asked for", nil
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

// debianWorks says why mmdebstrap can make the image here, or, as an error, why it can't.
func debianWorks() (why string, err error) {
	if runtime.GOOS != "linux" {
		return "", fmt.Errorf("mmdebstrap needs Linux and this is %s", runtime.GOOS)
	}
	if os.Geteuid() != 0 {
		return "", fmt.Errorf("mmdebstrap needs root and we are not")
	}
	tools := missingTools()
	if len(tools.required) == 0 {
		return "this machine has mmdebstrap and we are root", nil
	}
	system, family := osRelease()
	if !family {
		return "", fmt.Errorf("%s can be installed by us only on Debian and Ubuntu, and this is %s", strings.Join(tools.required, ", "), system)
	}
	return fmt.Sprintf("this is %s and we are root", system), nil
}

// osRelease names the Linux system, and tells whether it is of Debian's family.
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
