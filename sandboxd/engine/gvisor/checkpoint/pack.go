package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// packedSuffix is the suffix of the name of a checkpoint's file whose blocks are compressed.
const packedSuffix = ".zst"

// Packed reports whether the files of a checkpoint are compressed.
func (m Manifest) Packed() bool {
	for _, file := range m.Files {
		if file.Packed != nil {
			return true
		}
	}
	return false
}

// pack compresses a checkpoint's files into another folder, and returns the new manifest. It checks the checksums of the
// files, so that a damaged checkpoint is not compressed.
func (m Manifest) pack(ctx context.Context, from, to string) (Manifest, error) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
	if err != nil {
		return m, err
	}
	defer encoder.Close()
	files := m.Files
	m.Files = make([]File, 0, len(files))
	for _, file := range files {
		if file.Packed, err = packFile(ctx, encoder, file, filepath.Join(from, file.Name), filepath.Join(to, file.Name+packedSuffix)); err != nil {
			return m, fmt.Errorf("compress %s: %w", file.Name, err)
		}
		m.Files = append(m.Files, file)
	}
	return m, nil
}

func packFile(ctx context.Context, encoder *zstd.Encoder, file File, from, to string) (sizes []int, err error) {
	source, err := os.Open(from)
	if err != nil {
		return nil, err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	block, packed := make([]byte, blockBytes), []byte(nil)
	// The slice must not be nil, even for an empty file: nil means that a file is not compressed.
	sizes = make([]int, 0, len(file.Sums))
	for i, sum := range file.Sums {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		block := block[:min(blockBytes, file.Size-int64(i)*blockBytes)]
		if _, err := io.ReadFull(source, block); err != nil {
			return nil, err
		}
		if crc32.Checksum(block, castagnoli) != sum {
			return nil, errors.New("it is damaged")
		}
		packed = encoder.EncodeAll(block, packed[:0])
		if _, err := target.Write(packed); err != nil {
			return nil, err
		}
		sizes = append(sizes, len(packed))
	}
	return sizes, target.Sync()
}

// Unpack decompresses the files of a checkpoint into another folder. The parameter from is the folder of the
// checkpoint, and to is the path of the new folder. Unpack first removes an older folder at that path. The error is of
// kind expired if a file of the checkpoint is damaged or missing.
func (m Manifest) Unpack(ctx context.Context, from, to string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	err := os.Mkdir(to, 0o700)
	for _, file := range m.Files {
		if err == nil {
			err = file.unpack(ctx, filepath.Join(from, file.Name+packedSuffix), filepath.Join(to, file.Name))
		}
	}
	switch {
	case err == nil, ctx.Err() != nil:
		return err
	case errors.Is(err, folder.ErrDamaged):
		return folder.Lost("its saved memory is damaged").WithCause(err)
	case errors.Is(err, fs.ErrNotExist):
		return folder.Lost("a part of its saved memory is missing").WithCause(err)
	}
	return notRead(err)
}

// unpack decompresses the blocks of one file concurrently, and checks their checksums.
func (f File) unpack(ctx context.Context, from, to string) (err error) {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	starts := make([]int64, len(f.Packed)+1)
	for i, n := range f.Packed {
		if n < 0 || n > 2*blockBytes {
			return folder.ErrDamaged
		}
		starts[i+1] = starts[i] + int64(n)
	}
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(2*blockBytes))
	if err != nil {
		return err
	}
	defer decoder.Close()
	return eachBlock(len(f.Sums), func(i int, buffer []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		packed := make([]byte, f.Packed[i])
		if _, err := source.ReadAt(packed, starts[i]); errors.Is(err, io.EOF) {
			return folder.ErrDamaged
		} else if err != nil {
			return err
		}
		at := int64(i) * blockBytes
		block, err := decoder.DecodeAll(packed, buffer[:0])
		if err != nil || int64(len(block)) != min(blockBytes, f.Size-at) || crc32.Checksum(block, castagnoli) != f.Sums[i] {
			return folder.ErrDamaged
		}
		_, err = target.WriteAt(block, at)
		return err
	})
}

// notRead returns the error for an intact checkpoint that could not be decompressed.
func notRead(cause error) *sandbox.Error {
	return folder.FailedOnDisk("its saved memory could not be read back", cause)
}
