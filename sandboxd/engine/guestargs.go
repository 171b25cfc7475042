package engine

import "strconv"

// GuestArgs returns the command that starts the guest for a spec. The guest's main parses the flags.
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

// ConnectArgs returns the command that connects its stdin and stdout to the guest. The command waits for the guest's
// socket for at most ten seconds, writes stdio.Joined, and ends when its stdin or the guest ends. It must run as uid 0.
// Without this command, a guest can be reached only through the guest's own stdin and stdout (package stdio).
func ConnectArgs() []string { return []string{BundleDir + "/guest", "connect"} }
