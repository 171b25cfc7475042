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

// cache is a folder of the user's, shared by every home:
//
//	image-<hash>.tar    a root file system, whole: it got its name when it was finished
//	image-<hash>.json   its Result; written before the tar got its name
//	image-<hash>.log    what the programs said that made it
//	image.lock          held while something here is made
//	making-*            a folder to work in; one that is there while the lock is free is a leftover
type cache struct{ dir string }

// unusedFor is after how long a tar that nobody used is removed.
const unusedFor = 30 * 24 * time.Hour

// CacheDir returns the user's folder for images. A relative XDG_CACHE_HOME is ignored, as its specification demands: the
// daemon has another working directory than its clients.
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

// find returns the image if it was built before.
func (c cache) find() (Result, bool) {
	tar := c.path(".tar")
	info, err := os.Stat(tar)
	if err != nil {
		return Result{}, false
	}
	var result Result
	if b, err := os.ReadFile(c.path(".json")); err == nil {
		_ = json.Unmarshal(b, &result) // the tar stands for itself
	}
	result.Ref, result.Path, result.Size, result.Made = Ref(), tar, info.Size(), false
	now := time.Now()
	_ = os.Chtimes(tar, now, now) // it is in use; prune goes by this
	return result, true
}

// keep takes a finished tar into the cache.
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

// lock waits until nobody else makes an image, and clears what a killed one left.
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

// workDir makes a folder to build in, on the file system of the cache.
func (c cache) workDir() (string, error) {
	dir, err := os.MkdirTemp(c.dir, "making-*")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o755) // apt downloads as a user of its own
}

// discard removes a folder that something was built in, unless a file system is still
// mounted below it, which would be emptied too.
func (c cache) discard(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if strings.Contains(string(mounts), " "+dir+"/") {
		return fmt.Errorf("something is still mounted below %s: unmount it and remove the folder", dir)
	}
	return os.RemoveAll(dir)
}

// prune removes images that nobody used for long.
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
