//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/stdio"
)

var (
	socket = filepath.Join(engine.RunDir, "guest.sock")
	blob   = filepath.Join(engine.RunDir, "blob")
)

const buffer = 256 << 10

// kernelUID is the uid that the engine has assigned to kernels, from the argument --uid.
var kernelUID int

func serve(args []string) error {
	for _, arg := range args {
		if v, ok := strings.CutPrefix(arg, "--uid="); ok {
			kernelUID, _ = strconv.Atoi(v)
		}
	}
	if kernelUID == 0 {
		return fmt.Errorf("no --uid in %q", args)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /blob", putBlob)
	mux.HandleFunc("GET /blob", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, blob) })
	mux.HandleFunc("GET /args", func(w http.ResponseWriter, r *http.Request) { answer(w, args) })
	mux.HandleFunc("GET /posture/guest", func(w http.ResponseWriter, r *http.Request) { printPosture(w) })
	mux.HandleFunc("GET /posture/kernel", func(w http.ResponseWriter, r *http.Request) {
		out, err := asKernel("posture").Output()
		answerOutput(w, out, err)
	})
	mux.HandleFunc("POST /hog/{what}", func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush() // the header tells the client that the request has arrived
		out, err := asKernel("hog", r.PathValue("what")).CombinedOutput()
		answerOutput(w, append(out, describeExit(err)...), nil)
	})
	mux.HandleFunc("POST /run", func(w http.ResponseWriter, r *http.Request) {
		cmd := asKernel()
		cmd.Path, cmd.Args = r.URL.Query().Get("program"), r.URL.Query()["arg"]
		cmd.Env = append(os.Environ(), "HOME=/workspace", "MPLCONFIGDIR=/tmp/mpl", "IPYTHONDIR=/tmp/ipython")
		out, err := cmd.CombinedOutput()
		answerOutput(w, append(out, describeExit(err)...), nil)
	})
	mux.HandleFunc("PUT /workspace/{name}", putWorkspace)
	mux.HandleFunc("GET /streams", func(w http.ResponseWriter, r *http.Request) { answer(w, streams()) })
	mux.HandleFunc("POST /exit", func(w http.ResponseWriter, r *http.Request) { os.Exit(3) })
	mux.HandleFunc("POST /count", counter())
	mux.HandleFunc("POST /watch", watch)
	mux.HandleFunc("GET /watched", watched)
	mux.HandleFunc("POST /lock", lock)
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: mux, Protocols: protocols}
	if slices.Contains(args, stdio.Flag) {
		own, err := stdio.Listen()
		if err != nil {
			return err
		}
		go server.Serve(own)
	}
	return server.Serve(listener)
}

// asKernel returns a command that runs this program as a kernel runs: with the kernels' uid, in its own session.
func asKernel(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(engine.BundleDir, "guest"), args...)
	cmd.Dir = "/workspace"
	id := uint32(kernelUID)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: id, Gid: id, Groups: []uint32{}}}
	return cmd
}

func describeExit(err error) string {
	if err == nil {
		return "ended well"
	}
	return err.Error()
}

func putBlob(w http.ResponseWriter, r *http.Request) {
	file, err := os.Create(blob)
	if err == nil {
		var n int64
		n, err = io.CopyBuffer(struct{ io.Writer }{file}, struct{ io.Reader }{r.Body}, make([]byte, buffer))
		err = errors.Join(err, file.Close())
		fmt.Fprint(w, n)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

func answerOutput(w http.ResponseWriter, out []byte, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Write(out)
}

// connect connects stdin and stdout to the guest's socket. It waits until the socket accepts connections, for at most
// ten seconds. It returns when one direction ends.
func connect() error {
	var conn net.Conn
	err := errors.New("never tried")
	for deadline := time.Now().Add(10 * time.Second); err != nil; {
		if conn, err = net.Dial("unix", socket); err != nil {
			if time.Now().After(deadline) {
				return err
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
	if _, err := os.Stdout.Write([]byte{stdio.Joined}); err != nil {
		return err
	}
	ends := make(chan error, 2)
	pump := func(w io.Writer, r io.Reader) {
		_, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, buffer))
		ends <- err
	}
	go pump(conn, os.Stdin)
	go pump(os.Stdout, conn)
	return <-ends
}

// putWorkspace writes a file as the kernels' user, because uid 0 can't write to /workspace.
func putWorkspace(w http.ResponseWriter, r *http.Request) {
	cmd := asKernel("save", r.PathValue("name"))
	cmd.Stdin = r.Body
	out, err := cmd.CombinedOutput()
	answerOutput(w, append(out, describeExit(err)...), nil)
}

// streams returns the number of `guest connect` processes in the sandbox.
func streams() int {
	count := 0
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range commands {
		text, _ := os.ReadFile(name)
		if strings.HasSuffix(string(text), "/guest\x00connect\x00") {
			count++
		}
	}
	return count
}
