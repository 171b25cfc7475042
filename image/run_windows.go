package image

import "os/exec"

// On Windows these functions do nothing. They are needed only for mmdebstrap, which starts child processes and which is
// not used on Windows: there, the engine builds the image.
func setProcessGroup(*exec.Cmd) {}
func killGroup(*exec.Cmd)       {}
