package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/dormouse-sandbox/dormouse/examples/mcpclient"
)

type args = mcpclient.Args

// session is an MCP session whose methods also print for the demo.
type session struct{ *mcpclient.Session }

// show runs code and prints the code and the text that a model would get as the answer.
func (s session) show(ctx context.Context, id, code string, language ...string) error {
	a := args{"sandbox_id": id, "code": code}
	if len(language) > 0 {
		a["language"] = language[0]
	}
	for line := range strings.Lines(code) {
		fmt.Print("   > ", line)
	}
	fmt.Println()
	r, err := s.Must(ctx, "execute_code", a)
	if err != nil {
		return err
	}
	say("%s", r.Text)
	return nil
}

// expect runs code and returns an error if the answer does not contain want.
func (s session) expect(ctx context.Context, id, code, want string) error {
	r, err := s.Must(ctx, "execute_code", args{"sandbox_id": id, "code": code})
	if err != nil {
		return err
	}
	if !strings.Contains(r.Text, want) {
		return fmt.Errorf("the code %q returned %q, want it to contain %q", code, r.Text, want)
	}
	return nil
}
