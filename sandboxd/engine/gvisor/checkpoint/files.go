package checkpoint

import (
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

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
)

// checkPresent checks that a file of a checkpoint exists, is a regular file and has the right size. It does not open the
// file: if the file was replaced by a pipe, opening it would block until a writer opens it.
func (s File) checkPresent(dir string) error {
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

// seal syncs the files in dir, computes their checksums, and writes and syncs the manifest m with them.
func (m Manifest) seal(dir string) error {
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
		return errors.New("the checkpoint has no files")
	}
	return writeManifest(dir, m)
}

// Verify reads the files of a checkpoint that is not compressed. It returns an error of kind expired if one is missing
// or damaged.
func (m Manifest) Verify(dir string) error {
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

// checksumFile returns the size of a file and the checksums of its blocks, which it reads concurrently. If sync is true,
// it syncs the file, too.
func checksumFile(path string, sync bool) (File, error) {
	file, err := os.Open(path)
	if err != nil {
		return File{}, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return File{}, err
	}
	if !info.Mode().IsRegular() {
		return File{}, fmt.Errorf("%s is not a regular file", path)
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
	s := File{Name: filepath.Base(path), Size: info.Size()}
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
// belongs to the call of f until f returns. After f has returned an error, its goroutine handles no more blocks.
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
