package checkpoint

import (
	"encoding/json"
	"errors"
	"hash/crc32"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/durable"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Manifest describes a checkpoint: the files that runsc wrote, and the build, image, guest, configuration and CPU
// features that are needed to restore them. It is written last, so a checkpoint without a manifest is incomplete.
//
// The checksums detect damage, not forgery. Only root and the daemon's own user can write to the folder of a
// checkpoint, and they gain nothing from a forged checkpoint.
type Manifest struct {
	Schema int `json:"schema"`
	// Saved is the time just before the memory was written. The saved state is not older.
	Saved  time.Time `json:"saved"`
	Build  string    `json:"runsc"`
	Image  string    `json:"image"`
	Guest  string    `json:"guest"`
	Config string    `json:"config"` // sha256 of config.json
	CPU    []string  `json:"cpu"`    // CPU features that the saved code may use
	Files  []File    `json:"files,omitempty"`
}

// File is a file of a checkpoint.
type File struct {
	Name string   `json:"name"`
	Size int64    `json:"size"`
	Sums []uint32 `json:"crc32c"` // the checksum of each block of blockBytes
	// Packed holds the compressed size of each block in bytes, or is nil if the file is not compressed. The compressed
	// blocks follow each other in the file Name+packedSuffix. All other fields describe the uncompressed file, which
	// runsc writes and reads.
	Packed []int `json:"packed"` // no omitempty: an empty file has no blocks, and may be compressed
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

// New returns the manifest of a checkpoint that is made now, on this machine, of a sandbox with this record and
// configuration. It does not set Saved and Files.
func New(r folder.Record, config []byte) Manifest {
	return Manifest{Schema: manifestSchema, Build: r.Build, Image: r.Image, Guest: r.Guest,
		Config: folder.Hash(config), CPU: cpuFeatures()}
}

// Fits returns an error if a checkpoint with the manifest m can't be restored. The parameter now is the manifest that a
// checkpoint made at present would have. The error is of kind unavailable if another machine or version could restore
// the checkpoint, and of kind expired if the checkpoint can never be restored.
func (m Manifest) Fits(now Manifest) error {
	switch {
	case m.Schema != now.Schema:
		return sandbox.Errorf(sandbox.Unavailable, "another version of Dormouse suspended it; resume it with that version")
	case m.Build != now.Build || m.Image != now.Image || m.Guest != now.Guest || m.Config != now.Config:
		return folder.Lost("its saved memory belongs to another sandbox or another gVisor build")
	}
	for _, feature := range m.CPU {
		if _, has := slices.BinarySearch(now.CPU, feature); !has {
			return sandbox.Errorf(sandbox.Unavailable, "it was suspended on a machine whose CPU has %s, which this CPU lacks; resume it on a machine that has it", sandbox.Quote(feature))
		}
	}
	return nil
}

// writeManifest writes a manifest, and the manifest's checksum, to a file in the folder dir. It syncs the file and the
// folder, so that the names of all files in the folder are on disk.
func writeManifest(dir string, m Manifest) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	whole, err := json.Marshal(manifestFile{folder.Hash(text), text})
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, manifestName), whole, 0o600)
}

// Read reads the manifest of a checkpoint, and checks that all its files exist and have the right size. The error is of
// kind expired if the checkpoint is damaged.
func Read(dir string) (m Manifest, err error) {
	var s manifestFile
	err = folder.ReadJSON(filepath.Join(dir, manifestName), &s)
	if errors.Is(err, fs.ErrNotExist) {
		return m, folder.Lost("a part of its saved memory is missing").WithCause(err)
	}
	if err != nil || folder.Hash(s.Manifest) != s.Sum {
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
