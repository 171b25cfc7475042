package render

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// Limits of the pictures in one answer. Claude Desktop rejects a result above 1 MiB. A longer side than maxImageSide
// pixels would be useless, because models shrink such a picture anyway.
const (
	maxImages      = 4
	maxImageSide   = 1568
	maxImagesBytes = 700_000 // bytes of base64 of all pictures in one answer
)

// Limits of the workers that decode pictures. Each worker can use up to workerMemory.
const (
	maxWorkers         = 4
	maxWorkersPerOwner = 2
	workerDeadline     = 15 * time.Second
	workerWait         = 20 * time.Second // how long a call waits for other workers to exit
)

// Pictures shrinks pictures so that they fit into answers. It decodes them in worker processes, because decoding a
// small file can need much memory and time. Its methods are safe for concurrent use.
type Pictures struct {
	slots chan struct{}

	mu     sync.Mutex
	owners map[sandbox.Owner]*ownerSlots
}

// ownerSlots limits the number of workers for one owner. Pictures.mu guards calls.
type ownerSlots struct {
	slots chan struct{}
	calls int // how many calls of acquire hold a slot or wait for one
}

func NewPictures() *Pictures {
	return &Pictures{slots: make(chan struct{}, maxWorkers), owners: map[sandbox.Owner]*ownerSlots{}}
}

// picture is an image that clients can show.
type picture struct {
	content       mcp.ImageContent
	width, height int    // the size of the original picture, in pixels
	note          string // how the picture was changed; empty: it is unchanged
}

var (
	errNotPicture = errors.New("it is not a valid PNG or JPEG")
	errCannotFit  = errors.New("there is no room for it in this answer")
	errTooCostly  = errors.New("decoding it takes too much time or memory")
	errNotStarted = errors.New("the process that decodes it could not be started; call again")
)

// fit returns the picture in at most budget bytes of base64, or an error that says why it can't be shown. A worker
// decodes the whole picture even if it is small enough, to check that it is valid: a model's API rejects a conversation
// that contains a broken picture.
func (s *Pictures) fit(ctx context.Context, data []byte, budget int) (picture, error) {
	h, err := inspectPicture(data)
	p := picture{width: h.width, height: h.height}
	if err != nil {
		return p, err
	}
	release, err := s.acquire(ctx)
	if err != nil {
		return p, err
	}
	defer release()
	made, err := runPictureWorker(ctx, data, budget)
	if err != nil {
		return p, err
	}
	if made == nil {
		p.content = imageContent(data, "image/"+h.format)
		return p, nil
	}
	// A hostile picture may have taken over the worker, so the worker's answer is checked like the picture itself.
	small, err := inspectPicture(made)
	if err != nil || max(small.width, small.height) > maxImageSide || base64.StdEncoding.EncodedLen(len(made)) > budget {
		return p, errNotPicture
	}
	p.content = imageContent(made, "image/"+small.format)
	p.note = fmt.Sprintf("shown as %d×%d", small.width, small.height)
	return p, nil
}

// acquire waits up to workerWait for one of the owner's slots and one of the shared slots. The caller must call release
// after its worker has exited.
func (s *Pictures) acquire(ctx context.Context) (release func(), err error) {
	owner := sandbox.OwnerOf(ctx)
	s.mu.Lock()
	own := s.owners[owner]
	if own == nil {
		own = &ownerSlots{slots: make(chan struct{}, maxWorkersPerOwner)}
		s.owners[owner] = own
	}
	own.calls++
	s.mu.Unlock()
	leave := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if own.calls--; own.calls == 0 {
			delete(s.owners, owner)
		}
	}
	timeout := time.NewTimer(workerWait)
	defer timeout.Stop()
	for i, slots := range []chan struct{}{own.slots, s.slots} {
		select {
		case slots <- struct{}{}:
			continue
		case <-ctx.Done():
			err = errors.New("the call was cancelled")
		case <-timeout.C:
			err = errors.New("other pictures are being decoded; call again")
		}
		if i > 0 {
			<-own.slots
		}
		leave()
		return nil, err
	}
	return func() {
		<-s.slots
		<-own.slots
		leave()
	}, nil
}

func imageContent(data []byte, mime string) mcp.ImageContent {
	return mcp.ImageContent{Type: mcp.ContentTypeImage, Data: base64.StdEncoding.EncodeToString(data), MIMEType: mime}
}

// boundedBuffer is a buffer with a maximum size. A Write that would exceed this size fails.
type boundedBuffer struct {
	bytes.Buffer
	maximum int
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.maximum {
		return 0, errors.New("a worker wrote more than it may")
	}
	return b.Buffer.Write(p)
}
