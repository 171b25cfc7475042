package manager

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// transferTimeout is the time limit for reading or writing one file, no matter how slow the client is.
const transferTimeout = 15 * time.Minute

// ListFiles returns the regular files in the workspace, and the files that the list omits, each with the reason.
func (m *Manager) ListFiles(ctx context.Context, name string) ([]sandbox.File, []sandbox.OmittedFile, error) {
	s, err := m.find(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	var list guest.FileList
	err = s.call(ctx, time.Minute, twice, func(ctx context.Context) (err error) {
		list, err = s.guest.ListFiles(ctx)
		return err
	})
	return list.Files, list.Omitted, err
}

// WriteFile writes body to a file. It does not read body after it has returned.
func (m *Manager) WriteFile(ctx context.Context, name string, path sandbox.Path, body io.Reader) (sandbox.File, error) {
	s, err := m.find(ctx, name)
	if err != nil {
		return sandbox.File{}, err
	}
	in := &upload{body: body}
	defer in.end()
	var f sandbox.File
	err = s.call(ctx, transferTimeout, twice, func(ctx context.Context) error {
		s.markChanged()
		defer s.markChanged()
		var err error
		if f, err = s.guest.WriteFile(ctx, path, in); err == nil || isAnswer(err) {
			return err
		}
		begun, broken := in.state()
		if broken != nil {
			if _, ok := errors.AsType[*sandbox.Error](broken); ok {
				return broken
			}
			return sandbox.Errorf(sandbox.Invalid, "%q was not written, because the upload was incomplete", sandbox.Quote(string(path))).WithCause(broken)
		}
		if begun {
			err = errors.Join(err, errBegun)
		}
		return err
	})
	return f, err
}

// upload is a request body that records whether it has been read. After a call of end, Read fails, so that the
// HTTP transport cannot read body any more when WriteFile has returned.
type upload struct {
	mu      sync.Mutex
	body    io.Reader
	touched bool
	err     error // the error that body returned, except io.EOF
}

func (u *upload) Read(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.body == nil {
		return 0, io.ErrClosedPipe
	}
	u.touched = true
	n, err := u.body.Read(p)
	if err != nil && err != io.EOF {
		u.err = err
	}
	return n, err
}

// state reports whether body has been read, and the error that body returned, if any.
func (u *upload) state() (begun bool, broken error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.touched, u.err
}

func (u *upload) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.body = nil
}

// ReadFile returns length bytes of a file, starting at offset, and the file's path and total size. offset must
// not be negative. A negative length means up to the end. The caller must close the returned body; until then, but
// at most for transferTimeout, the sandbox is not suspended.
func (m *Manager) ReadFile(ctx context.Context, name string, path sandbox.Path, offset, length int64) (io.ReadCloser, sandbox.File, error) {
	s, err := m.find(ctx, name)
	if err != nil {
		return nil, sandbox.File{}, err
	}
	release, err := s.acquire(ctx)
	if err != nil {
		return nil, sandbox.File{}, err
	}
	// The body outlives this call, so it has its own context. The sandbox is not suspended before that context
	// ends.
	own, cancel := context.WithTimeout(ctx, transferTimeout)
	context.AfterFunc(own, release)
	var body io.ReadCloser
	var size int64
	err = s.call(ctx, answerTimeout, twice, func(ctx context.Context) (err error) {
		defer context.AfterFunc(ctx, cancel)()
		body, size, err = s.guest.ReadFile(own, path, offset, length)
		return err
	})
	if err != nil {
		cancel()
		if asOf := s.record().Rewound.AsOf; sandbox.KindOf(err) == sandbox.NotFound && !asOf.IsZero() {
			err = sandbox.Errorf(sandbox.NotFound, "%s (the sandbox's processes died, and it went back to its state as of %s: files written after that are lost)", sandbox.Public(err).Message, stamp(asOf)).WithCause(err)
		}
		return nil, sandbox.File{}, err
	}
	return &download{ReadCloser: body, cancel: cancel}, sandbox.File{Path: string(path), Size: size}, nil
}

// download is the content of a file, as ReadFile returns it. When it is closed, it cancels the context of the
// request to the guest.
type download struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (d *download) Close() error {
	defer d.cancel()
	return d.ReadCloser.Close()
}
