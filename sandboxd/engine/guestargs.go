package engine

import "strconv"

// GuestArgs is the command that starts the guest for a spec; its flags are parsed by
// the guest's main.
func GuestArgs(s Spec) []string {
	return []string{
		BundleDir + "/guest", "serve",
		"--uid=" + strconv.Itoa(s.UID),
		"--memory=" + strconv.FormatInt(s.Limits.MemoryBytes, 10),
		"--processes=" + strconv.Itoa(s.Limits.Processes),
		"--workspace=" + strconv.FormatInt(s.Limits.WorkspaceBytes, 10),
		"--expires=" + strconv.FormatInt(s.Expires.Unix(), 10),
		"--language=" + string(s.Language),
	}
}

// ConnectArgs is the command that joins its stdin and stdout to the guest. It
// waits for the socket to appear (ten seconds at most), says stdio.Joined, and ends when its stdin or
// the guest's end does. It is uid 0, and the only way in but for the guest's own stdin and stdout (package stdio).
func ConnectArgs() []string { return []string{BundleDir + "/guest", "connect"} }
