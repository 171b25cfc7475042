package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
)

// Joined is the first byte that an engine reads from a stream. `guest connect` sends it when it has reached the guest's
// socket, and the guest sends it when it accepts a stream over its own stdin and stdout. The guest itself sends all
// bytes after Joined.
const Joined = '+'

// AwaitJoined reads [Joined] from a new stream. If it reads another byte, if reading fails or if ctx ends first, it
// closes the stream and returns an error.
func AwaitJoined(ctx context.Context, conn net.Conn) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	first := make([]byte, 1)
	_, err := io.ReadFull(conn, first)
	if !stop() {
		err = context.Cause(ctx)
	} else if err == nil && first[0] != Joined {
		err = fmt.Errorf("its first byte is %q, want %q", first, Joined)
	} else if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		conn.Close()
		return fmt.Errorf("wait for the guest: %w", err)
	}
	return nil
}
