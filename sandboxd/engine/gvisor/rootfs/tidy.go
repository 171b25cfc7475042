package rootfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/dormouse-sandbox/dormouse/sandboxd/durable"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// unusedFor is how long an image must have been unused before Tidy removes it. A copy of runsc without links must have
// been made at least that long ago, because its last use is not recorded.
const unusedFor = 30 * 24 * time.Hour

// RegisterHome records the path of a home whose sandboxes use these images.
func (i *Images) RegisterHome(home folder.Layout) error {
	dir := filepath.Join(i.Dir, "homes")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(dir, homeFile(home.Dir))
	if old, err := os.ReadFile(path); err == nil && string(old) == home.Dir {
		return nil
	}
	return durable.WriteFile(path, []byte(home.Dir), 0o600)
}

// homeFile returns the name of the file that holds the path of a home.
func homeFile(home string) string {
	sum := sha256.Sum256([]byte(home))
	return hex.EncodeToString(sum[:16])
}

// MarkUsed records that an image is used now, as the modification time of its folder.
func (i *Images) MarkUsed(digest string) {
	now := time.Now()
	_ = os.Chtimes(filepath.Join(i.Dir, digest), now, now) // if this fails, Tidy may remove the image too early
}

// Tidy removes the leftovers of killed imports, unused images, and each copy of runsc that was made longer than unusedFor
// ago and that no home has a link to. An image is unused if no sandbox of any home needs it, it was not used for
// unusedFor, and it is not the latest image of its name (without the tag). If it is unknown which images a home needs,
// Tidy removes no images and no copies of runsc. While an image is being imported, Tidy only empties the trash.
func (i *Images) Tidy(ctx context.Context, now time.Time) error {
	defer i.removeTrash(ctx)
	lock := flock.New(filepath.Join(i.Dir, "import.lock"))
	if mine, err := lock.TryLock(); err != nil || !mine {
		return err
	}
	defer lock.Unlock()
	i.clear()
	needed, err := i.needed(now)
	if err != nil {
		return err
	}
	latest, refs, err := i.named()
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(i.Dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		digest := entry.Name()
		info, err := entry.Info()
		if err != nil || !folder.IsDigest(digest) || needed[digest] || latest[digest] || now.Sub(info.ModTime()) < unusedFor || ctx.Err() != nil {
			continue
		}
		for _, file := range refs[digest] {
			errs = append(errs, os.Remove(file))
		}
		errs = append(errs, i.trash(filepath.Join(i.Dir, digest)))
	}
	return errors.Join(append(errs, i.tidyPrograms(now))...)
}

// needed returns the digests of the images that the sandboxes of all homes need. It removes the records of homes that do
// not exist any more. It returns an error if it can't find out which images a home needs.
func (i *Images) needed(now time.Time) (map[string]bool, error) {
	needed := map[string]bool{}
	files, _ := filepath.Glob(filepath.Join(i.Dir, "homes", "*"))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if filepath.Base(file) != homeFile(string(text)) {
			// The file is damaged, so it is unknown which home it belongs to, and which images that home needs. When
			// that home is opened, the file is written again. If that does not happen within unusedFor, the file is
			// removed.
			info, err := os.Stat(file)
			if err == nil && now.Sub(info.ModTime()) > unusedFor {
				err = os.Remove(file)
			} else {
				err = errors.Join(err, fmt.Errorf("%s is damaged", file))
			}
			if err != nil {
				return nil, err
			}
			continue
		}
		home := folder.Layout{Dir: string(text)}
		ids, err := home.IDs()
		if errors.Is(err, fs.ErrNotExist) {
			if err := os.Remove(file); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			r, err := home.Find(id)
			if sandbox.KindOf(err) == sandbox.NotFound {
				continue // the sandbox is being created, or its creation was not completed
			}
			if err != nil {
				return nil, err
			}
			needed[r.Image] = true
		}
	}
	return needed, nil
}

// named reads the files in refs. It returns the digests of the latest image of each name (without the tag), and the
// files that refer to each digest. It removes damaged files.
func (i *Images) named() (latest map[string]bool, refs map[string][]string, err error) {
	type version struct {
		digest string
		at     time.Time
	}
	newest := map[string]version{}
	latest, refs = map[string]bool{}, map[string][]string{}
	files, _ := filepath.Glob(filepath.Join(i.Dir, "refs", "*.json"))
	for _, file := range files {
		var img Image
		if err := folder.ReadJSON(file, &img); errors.Is(err, folder.ErrDamaged) || err == nil && !folder.IsDigest(img.Digest) {
			if err := os.Remove(file); err != nil { // a damaged file does not refer to an image
				return nil, nil, err
			}
			continue
		} else if err != nil {
			return nil, nil, err
		}
		info, err := os.Stat(file)
		if err != nil {
			return nil, nil, err
		}
		refs[img.Digest] = append(refs[img.Digest], file)
		name, _, _ := strings.Cut(img.Ref, "@")
		if colon := strings.LastIndexByte(name, ':'); colon > strings.LastIndexByte(name, '/') {
			name = name[:colon]
		}
		if v := newest[name]; info.ModTime().After(v.at) {
			newest[name] = version{img.Digest, info.ModTime()}
		}
	}
	for _, v := range newest {
		latest[v.digest] = true
	}
	return latest, refs, nil
}

// Program returns the path of the copy of a runsc that homes share. Homes have hard links to it.
func (i *Images) Program(build string) string { return filepath.Join(i.Dir, "bin", "runsc-"+build) }

func (i *Images) tidyPrograms(now time.Time) error {
	var errs []error
	files, _ := filepath.Glob(i.Program("*"))
	for _, file := range files {
		if info, err := os.Lstat(file); err == nil && links(info) == 1 && now.Sub(info.ModTime()) > unusedFor {
			errs = append(errs, os.Remove(file))
		}
	}
	return errors.Join(errs...)
}
