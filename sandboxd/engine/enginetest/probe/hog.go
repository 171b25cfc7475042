//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// hog tries to use more of a resource than a sandbox's limits allow, and prints how much it could use. `hog sleep` only
// waits, for tests that need a process or a request that does not end.
func hog(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: probe hog memory|processes|disk|inodes")
	}
	switch args[0] {
	case "memory":
		return hogMemory()
	case "processes":
		return hogProcesses()
	case "disk":
		return hogDisk()
	case "inodes":
		return hogInodes()
	case "sleep":
		time.Sleep(time.Hour)
	}
	return fmt.Errorf("nothing to hog: %q", args[0])
}

// hogMemory touches up to 4 GiB. Its oom_score_adj makes it the process that the machine's kernel kills first.
func hogMemory() error {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0); err != nil {
		return err
	}
	for n := range 64 {
		block, err := unix.Mmap(-1, 0, 64<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return fmt.Errorf("after %d MiB: %w", n*64, err)
		}
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1
		}
	}
	fmt.Print("had 4 GiB; ")
	return nil
}

// hogProcesses starts up to 2,000 processes, until a start fails, and then kills them.
func hogProcesses() error {
	var children []*exec.Cmd
	defer func() {
		for _, c := range children {
			c.Process.Kill()
			c.Wait()
		}
	}()
	for range 2000 {
		c := exec.Command("/proc/self/exe", "hog", "sleep")
		if err := c.Start(); err != nil {
			fmt.Printf("%d processes, then %s; ", len(children), errnoName(err))
			return nil
		}
		children = append(children, c)
	}
	fmt.Print("had 2000 processes; ")
	return nil
}

// hogDisk writes up to 8 GiB to /workspace, in files of 16 MiB, until a write fails, and then removes the files.
func hogDisk() error {
	dir, err := os.MkdirTemp("/workspace", "hog")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	block := make([]byte, 1<<20)
	for n := range 8192 {
		file, err := os.OpenFile(filepath.Join(dir, fmt.Sprint(n/16)), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = file.Write(block)
			file.Close()
		}
		if err != nil {
			fmt.Printf("%d MiB, then %s; ", n, errnoName(err))
			return nil
		}
	}
	fmt.Print("had 8 GiB; ")
	return nil
}

// hogInodes creates up to 100,000 empty files in /workspace, until a create fails, and then removes the files.
func hogInodes() error {
	dir, err := os.MkdirTemp("/workspace", "hog")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for n := range 100_000 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(n)), nil, 0o600); err != nil {
			fmt.Printf("%d files, then %s; ", n, errnoName(err))
			return nil
		}
	}
	fmt.Print("had 100,000 files; ")
	return nil
}
