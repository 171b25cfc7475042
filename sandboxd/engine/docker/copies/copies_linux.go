package copies

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/docker/hostproc"
)

// copyName matches the names of containerd's temporary folders for checkpoints. containerd restores from folders named
// ctrd-checkpoint…, and saves to folders named ctd-checkpoint….
var copyName = regexp.MustCompile(`^ctr?d-checkpoint[0-9]+$`)

// Places returns the folders in which the containerd processes of this machine unpack checkpoints. host is the
// engine's address. The error is the reason why this process can't remove the copies that this engine's containerd
// leaves.
func Places(host string) ([]string, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the daemon is not root")
	}
	socket, ok := strings.CutPrefix(host, "unix://")
	if !ok {
		return nil, errors.New("the engine is on another machine")
	}
	listener, err := listenerOf(socket)
	if err != nil {
		return nil, fmt.Errorf("the engine's process can't be found: %w", err)
	}
	engines, containerds := hostproc.Named("dockerd"), hostproc.Named("containerd")
	// The socket belongs to process 1 if systemd listens on it and starts the engine on demand.
	if len(engines) == 0 || listener != 1 && !slices.Contains(engines, listener) {
		return nil, errors.New("the engine does not run on this machine as root")
	}
	if len(containerds) == 0 {
		return nil, errors.New("no containerd runs on this machine as root")
	}
	if listener != 1 {
		engines = []int{listener}
	}
	for _, pid := range slices.Concat(engines, containerds) {
		if !hostproc.SharesFileSystem(pid) {
			return nil, errors.New("the engine or its containerd has a file system of its own")
		}
	}
	var places []string
	for _, pid := range containerds {
		place, err := tempDirOf(pid)
		if err != nil {
			return nil, fmt.Errorf("containerd's temporary folder can't be found: %w", err)
		}
		if !slices.Contains(places, place) {
			places = append(places, place)
		}
	}
	return places, nil
}

// listenerOf returns the pid of the process that listens on a unix socket.
func listenerOf(socket string) (int, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var peer *unix.Ucred
	controlErr := raw.Control(func(fd uintptr) {
		peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(controlErr, err); err != nil {
		return 0, err
	}
	return int(peer.Pid), nil
}

// tempDirOf returns the folder in which a containerd process makes temporary folders for checkpoints.
func tempDirOf(pid int) (string, error) {
	environ, err := os.ReadFile(hostproc.Path(pid, "environ"))
	if err != nil {
		return "", err
	}
	value := func(name string) string {
		for entry := range bytes.SplitSeq(environ, []byte{0}) {
			if v, ok := bytes.CutPrefix(entry, []byte(name+"=")); ok && filepath.IsAbs(string(v)) {
				return string(v)
			}
		}
		return ""
	}
	for _, name := range []string{"XDG_RUNTIME_DIR", "TMPDIR"} {
		if v := value(name); v != "" {
			return v, nil
		}
	}
	return "/tmp", nil
}

// Remove removes containerd's temporary folders that contain the memory of a container. The parameter place is the
// folder that these folders are in, and container is the container's full id. If the checkpoint in a folder does not
// contain the id, Remove calls isCopy, which reports whether the files are a copy of the container's checkpoint: older
// versions of gVisor do not write the id into a checkpoint. No restore may read the copies during the call.
func Remove(place, container string, isCopy func(dir string) bool) error {
	dir, err := os.Open(place)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if copyName.MatchString(name) {
			errs = append(errs, removeCopy(dir, name, container, isCopy))
		}
	}
	return errors.Join(errs...)
}

// removeCopy removes a folder if it contains a checkpoint of the container, or if isCopy reports that it does. The
// parameter place is the open parent folder, and name is the folder's name in it. Other users can't make it remove
// other files: the folder must be accessible to root alone and contain only regular files, and the files are removed
// relative to the folder's descriptor.
func removeCopy(place *os.File, name, container string, isCopy func(string) bool) error {
	fd, err := unix.Openat(int(place.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil // the folder was removed in the meantime, or name is not the name of a folder
	}
	dir := os.NewFile(uintptr(fd), name)
	defer dir.Close()
	var folder, parent unix.Stat_t
	if err := errors.Join(unix.Fstat(fd, &folder), unix.Fstat(int(place.Fd()), &parent)); err != nil {
		return err
	}
	if folder.Uid != 0 || folder.Mode&0o7777 != 0o700 || folder.Dev != parent.Dev {
		return nil
	}
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !entry.Type().IsRegular() {
			return nil
		}
	}
	if !isCheckpointOf(fd, container) && !isCopy("/proc/self/fd/"+strconv.Itoa(fd)) {
		return nil
	}
	var errs []error
	for _, entry := range entries {
		errs = append(errs, unix.Unlinkat(fd, entry.Name(), 0))
	}
	var now unix.Stat_t
	if err := unix.Fstatat(int(place.Fd()), name, &now, unix.AT_SYMLINK_NOFOLLOW); err != nil || now.Dev != folder.Dev || now.Ino != folder.Ino {
		return errors.Join(errs...) // the name no longer refers to this folder, so the folder or file that has the name now is not removed
	}
	return errors.Join(append(errs, unix.Unlinkat(int(place.Fd()), name, unix.AT_REMOVEDIR))...)
}

// isCheckpointOf reports whether a folder contains a checkpoint of a container. dir is the folder's descriptor.
func isCheckpointOf(dir int, container string) bool {
	fd, err := unix.Openat(dir, "checkpoint.img", unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	file := os.NewFile(uintptr(fd), "checkpoint.img")
	defer file.Close()
	info, err := file.Stat()
	return err == nil && info.Mode().IsRegular() && checkpointNames(file, container)
}

// maxHeader limits how many bytes of a header are read. gVisor writes headers of about 20 KB.
const maxHeader = 4 << 20

// checkpointNames reports whether the header of a gVisor checkpoint contains the id of a container. The header consists
// of eight fixed bytes, the length of a JSON object in eight bytes, and the JSON object. The object contains the
// container's configuration, in which the path of the container's folder in containerd contains the id.
func checkpointNames(file io.Reader, container string) bool {
	var start [16]byte
	if _, err := io.ReadFull(file, start[:]); err != nil || string(start[:8]) != "gVisorSF" {
		return false
	}
	length := binary.BigEndian.Uint64(start[8:])
	if length > maxHeader {
		return false
	}
	text := make([]byte, length)
	if _, err := io.ReadFull(file, text); err != nil {
		return false
	}
	var header struct {
		Specs string `json:"container_specs"`
	}
	return json.Unmarshal(text, &header) == nil && len(container) == 64 && strings.Contains(header.Specs, "/"+container+"/")
}
