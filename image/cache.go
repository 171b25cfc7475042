package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/dormouse-sandbox/dormouse/sandboxd/durable"
)

// cache is a folder that all homes of a user share:
//
//	image-<hash>.tar    a complete root file system; the tar gets this name only when it is finished
//	image-<hash>.json   the Result of the tar; written before the tar gets its name
//	image-<hash>.log    the output of the programs that built the image
//	image.lock          locked while an image is built or imported
//	making-*            the working folder of the build that holds the lock, and working folders of builds that were killed
type cache struct{ dir string }

// unusedFor is how long a tar must be unused before prune removes it.
const unusedFor = 30 * 24 * time.Hour

// CacheDir returns the user's folder for built images. It ignores a relative XDG_CACHE_HOME, as the XDG specification
// demands. A relative path would name different folders for the daemon and its clients, because their working directories
// differ.
func CacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil && os.Getenv("XDG_CACHE_HOME") != "" {
		if home, homeErr := os.UserHomeDir(); homeErr == nil {
			dir, err = filepath.Join(home, ".cache"), nil
		}
	}
	if err == nil && !filepath.IsAbs(dir) {
		err = fmt.Errorf("%s is not absolute", dir)
	}
	if err != nil {
		return "", fmt.Errorf("there is no folder for images: set HOME or XDG_CACHE_HOME (%w)", err)
	}
	return filepath.Join(dir, "dormouse"), nil
}

func (c cache) path(extension string) string {
	return filepath.Join(c.dir, "image-"+hash()+extension)
}

// find returns the image if the cache has it, and sets the tar's modification time, which prune reads as the time of its
// last use.
func (c cache) find() (Result, bool) {
	tar := c.path(".tar")
	info, err := os.Stat(tar)
	if err != nil {
		return Result{}, false
	}
	var result Result
	if b, err := os.ReadFile(c.path(".json")); err == nil {
		_ = json.Unmarshal(b, &result) // the tar is usable without its Result
	}
	result.Ref, result.Path, result.Size, result.Made = Ref(), tar, info.Size(), false
	now := time.Now()
	_ = os.Chtimes(tar, now, now)
	return result, true
}

// keep moves a finished tar and its Result into the cache and prunes the cache. The caller must hold image.lock.
func (c cache) keep(tar string, result Result) (Result, error) {
	info, err := os.Stat(tar)
	if err != nil {
		return Result{}, err
	}
	result.Ref, result.Path, result.Size, result.Made = Ref(), c.path(".tar"), info.Size(), true
	b, err := json.Marshal(result)
	if err != nil {
		return Result{}, err
	}
	if err := durable.WriteFile(c.path(".json"), b, 0o644); err != nil {
		return Result{}, err
	}
	if err := durable.Rename(tar, result.Path); err != nil {
		return Result{}, err
	}
	c.prune()
	return result, nil
}

// lock acquires image.lock, so that only one process at a time builds an image. It then removes the working folders of
// builds that were killed. The caller must call unlock.
func (c cache) lock(ctx context.Context, progress io.Writer) (unlock func(), err error) {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the cache folder: %w", err)
	}
	lock := flock.New(filepath.Join(c.dir, "image.lock"))
	held, err := lock.TryLock()
	if err == nil && !held {
		fmt.Fprintln(progress, "image: another program is making an image; waiting for it")
		_, err = lock.TryLockContext(ctx, 300*time.Millisecond)
	}
	if err != nil {
		return nil, fmt.Errorf("wait for %s: %w", lock.Path(), err)
	}
	leftovers, _ := filepath.Glob(filepath.Join(c.dir, "making-*"))
	for _, dir := range leftovers {
		_ = c.discard(dir)
	}
	return func() { _ = lock.Unlock() }, nil
}

// workDir makes a working folder on the cache's file system. The caller must hold image.lock, and must remove the folder
// with discard.
func (c cache) workDir() (string, error) {
	dir, err := os.MkdirTemp(c.dir, "making-*")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o755) // apt downloads packages as the user _apt, which must be able to enter the folder
}

// discard removes a working folder. It refuses if a file system is still mounted below the folder, because removing the
// folder would delete the files on that file system too.
func (c cache) discard(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if strings.Contains(string(mounts), " "+dir+"/") {
		return fmt.Errorf("a file system is still mounted below %s: unmount it and remove the folder", dir)
	}
	return os.RemoveAll(dir)
}

// prune removes each image that has not been used for the duration unusedFor, with its Result and its log.
func (c cache) prune() {
	tars, _ := filepath.Glob(filepath.Join(c.dir, "image-*.tar"))
	for _, tar := range tars {
		info, err := os.Stat(tar)
		if err != nil || time.Since(info.ModTime()) < unusedFor {
			continue
		}
		base := strings.TrimSuffix(tar, ".tar")
		for _, extension := range []string{".tar", ".json", ".log"} {
			_ = os.Remove(base + extension)
		}
	}
}
