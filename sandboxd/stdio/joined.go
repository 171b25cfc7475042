package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
)

// Joined is the byte that `guest connect` says first, when it has reached the guest's socket. What follows is the guest's.
const Joined = '+'

// AwaitJoined reads [Joined] from a stream that was just opened, and closes the stream if something else comes, or
// ctx ends first.
func AwaitJoined(ctx context.Context, conn net.Conn) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	first := make([]byte, 1)
	_, err := io.ReadFull(conn, first)
	if !stop() {
		err = context.Cause(ctx)
	} else if err == nil && first[0] != Joined {
		err = fmt.Errorf("it says %q", first)
	} else if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		conn.Close()
		return fmt.Errorf("join the guest: %w", err)
	}
	return nil
}
