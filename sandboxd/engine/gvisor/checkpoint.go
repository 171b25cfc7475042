package gvisor

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/durable"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// manifest describes a checkpoint: the files that runsc wrote, and the build, image, guest, configuration and CPU
// features that are needed to restore them. It is written last, so a checkpoint without a manifest is incomplete.
//
// The checksums detect damage, not forgery. Only root and the daemon's own user can write to the folder of a
// checkpoint, and they gain nothing from a forged checkpoint.
type manifest struct {
	Schema int `json:"schema"`
	// Saved is the time just before the memory was written. The saved state is not older.
	Saved  time.Time        `json:"saved"`
	Build  string           `json:"runsc"`
	Image  string           `json:"image"`
	Guest  string           `json:"guest"`
	Config string           `json:"config"` // sha256 of config.json
	CPU    []string         `json:"cpu"`    // CPU features that the saved code may use
	Files  []checkpointFile `json:"files,omitempty"`
}

// checkpointFile is a file of a checkpoint.
type checkpointFile struct {
	Name string   `json:"name"`
	Size int64    `json:"size"`
	Sums []uint32 `json:"crc32c"` // the checksum of each block of blockBytes
	// Packed holds the compressed size of each block in bytes, or is nil if the file is not compressed. The compressed
	// blocks follow each other in the file Name+packedSuffix. All other fields describe the uncompressed file, which
	// runsc writes and reads.
	Packed []int `json:"packed,omitempty"`
}

// manifestFile is the content of a manifest file: the manifest and its checksum.
type manifestFile struct {
	Sum      string          `json:"sha256"`
	Manifest json.RawMessage `json:"manifest"`
}

const (
	manifestSchema = 1
	manifestName   = "manifest.json"
	blockBytes     = 4 << 20
	// pieceBytes is how many bytes are read at once to compute a checksum. Such a piece fits into the cache of one
	// CPU, so that the computation takes half as long as with whole blocks.
	pieceBytes = 128 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// manifestOf returns the manifest of a checkpoint that is made now, on this machine, of a sandbox with this record and
// configuration. It does not set Saved and Files.
func manifestOf(r folder.Record, config []byte) manifest {
	return manifest{Schema: manifestSchema, Build: r.Build, Image: r.Image, Guest: r.Guest,
		Config: sumOf(config), CPU: cpuFeatures()}
}

// seal syncs the files in dir, computes their checksums, and writes and syncs the manifest m with them.
func seal(dir string, m manifest) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		// This is a second protection: other users have no access to the folder either.
		if err := os.Chmod(path, 0o600); err != nil {
			return err
		}
		s, err := checksumFile(path, true)
		if err != nil {
			return err
		}
		m.Files = append(m.Files, s)
	}
	if len(m.Files) == 0 {
		return errors.New("there is nothing in it")
	}
	return writeManifest(dir, m)
}

// fits returns an error if a checkpoint with the manifest m can't be restored. The parameter now is the manifest that a
// checkpoint made at present would have. The error is of kind unavailable if another machine or version could restore
// the checkpoint, and of kind expired if the checkpoint can never be restored.
func (m manifest) fits(now manifest) error {
	switch {
	case m.Schema != now.Schema:
		return notRestorableHere("another version of Dormouse suspended it, and that can resume it")
	case m.Build != now.Build || m.Image != now.Image || m.Guest != now.Guest || m.Config != now.Config:
		return folder.Lost("its saved memory belongs to another sandbox or another gVisor build")
	}
	for _, feature := range m.CPU {
		if _, has := slices.BinarySearch(now.CPU, feature); !has {
			return notRestorableHere("it was suspended on a machine whose CPU has %s, and this one has not: one that has can resume it", sandbox.Quote(feature))
		}
	}
	return nil
}

// whole reads the files of a checkpoint that is not compressed. It returns an error of kind expired if one is missing
// or damaged.
func (m manifest) whole(dir string) error {
	for _, file := range m.Files {
		got, err := checksumFile(filepath.Join(dir, file.Name), false)
		if errors.Is(err, fs.ErrNotExist) {
			return folder.Lost("a part of its saved memory is missing").WithCause(err)
		}
		if err != nil {
			return fmt.Errorf("read the checkpoint: %w", err)
		}
		if got.Size != file.Size || !slices.Equal(got.Sums, file.Sums) {
			return folder.Lost("its saved memory is damaged").WithCause(fmt.Errorf("the sum of %s is wrong", file.Name))
		}
	}
	return nil
}

// writeManifest writes a manifest with its own checksum. It syncs the file, and the folder with the names of all its
// files.
func writeManifest(dir string, m manifest) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	whole, err := json.Marshal(manifestFile{sumOf(text), text})
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, manifestName), whole, 0o600)
}

func sumOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

func readManifest(dir string) (m manifest, err error) {
	var s manifestFile
	err = folder.ReadJSON(filepath.Join(dir, manifestName), &s)
	if errors.Is(err, fs.ErrNotExist) {
		return m, folder.Lost("a part of its saved memory is missing").WithCause(err)
	}
	if err != nil || sumOf(s.Manifest) != s.Sum {
		return m, folder.Lost("its saved memory is damaged").WithCause(err)
	}
	if err := json.Unmarshal(s.Manifest, &m); err != nil {
		return m, folder.Lost("its saved memory is damaged").WithCause(err)
	}
	for _, file := range m.Files {
		blocks := int64(len(file.Sums))
		if !filepath.IsLocal(file.Name) || blocks != (file.Size+blockBytes-1)/blockBytes || file.Packed != nil && len(file.Packed) != len(file.Sums) {
			return m, folder.Lost("its saved memory is damaged")
		}
		if err := file.checkPresent(dir); err != nil {
			return m, err
		}
	}
	return m, nil
}

// checkPresent checks that a file of a checkpoint exists, is a regular file and has the right size. It does not open the
// file: if the file was replaced by a pipe, opening it would block until a writer opens it.
func (s checkpointFile) checkPresent(dir string) error {
	name, size := s.Name, s.Size
	if s.Packed != nil {
		name, size = s.Name+packedSuffix, 0
		for _, n := range s.Packed {
			size += int64(n)
		}
	}
	info, err := os.Lstat(filepath.Join(dir, name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return folder.Lost("a part of its saved memory is missing").WithCause(err)
	case err != nil:
		return err
	case !info.Mode().IsRegular() || info.Size() != size:
		return folder.Lost("its saved memory is damaged").WithCause(fmt.Errorf("%s is %s of %d bytes", name, info.Mode(), info.Size()))
	}
	return nil
}

// checksumFile returns the size of a file and the checksums of its blocks, which it reads concurrently. If sync is true,
// it syncs the file, too.
func checksumFile(path string, sync bool) (checkpointFile, error) {
	file, err := os.Open(path)
	if err != nil {
		return checkpointFile{}, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return checkpointFile{}, err
	}
	if !info.Mode().IsRegular() {
		return checkpointFile{}, fmt.Errorf("%s is no file", path)
	}
	synced := make(chan error, 1)
	// Sync the file in the background, so that the disk writes it while the CPUs compute the checksums.
	go func() {
		if sync {
			synced <- file.Sync()
		} else {
			synced <- nil
		}
	}()
	s := checkpointFile{Name: filepath.Base(path), Size: info.Size()}
	s.Sums = make([]uint32, (s.Size+blockBytes-1)/blockBytes)
	err = eachBlock(len(s.Sums), func(i int, buffer []byte) error {
		end := min(int64(i+1)*blockBytes, s.Size)
		for at := int64(i) * blockBytes; at < end; {
			n, err := file.ReadAt(buffer[:min(pieceBytes, end-at)], at)
			s.Sums[i] = crc32.Update(s.Sums[i], castagnoli, buffer[:n])
			at += int64(n)
			if err != nil && !(errors.Is(err, io.EOF) && at == s.Size) {
				return err
			}
		}
		return nil
	})
	return s, errors.Join(err, <-synced)
}

// eachBlock calls f for each block from 0 to n-1, with one goroutine for each CPU. The buffer has blockBytes bytes and
// belongs to the call of f until f returns. After an error, a goroutine handles no more blocks.
func eachBlock(n int, f func(i int, buffer []byte) error) error {
	var group sync.WaitGroup
	workers := min(n, runtime.GOMAXPROCS(0))
	errs := make([]error, workers)
	for w := range workers {
		group.Go(func() {
			buffer := make([]byte, blockBytes)
			for i := w; i < n && errs[w] == nil; i += workers {
				errs[w] = f(i, buffer)
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}
