package engine

import (
	"context"
	"net"
	"net/http"
)

// Answers returns no error when the guest behind dial has answered one request, whatever
// the answer, over a stream of its own.
func Answers(ctx context.Context, dial func(context.Context) (net.Conn, error)) error {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{
		Protocols:   protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, "http://guest/", nil)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
