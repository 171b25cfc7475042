package server_test

import (
	"bufio"
	"context"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/server"
	"github.com/dormouse-sandbox/dormouse/tools"
)

// sink is a fake daemon that reads files and discards them.
type sink struct{ oneFile }

func (sink) WriteFile(_ context.Context, _ string, path sandbox.Path, body io.Reader) (sandbox.File, error) {
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, body, make([]byte, 32<<10))
	return sandbox.File{Path: string(path), Size: n}, err
}

// BenchmarkStdio measures calls on stdio without a daemon: a small call with and without a spool, to show that the spool
// does not slow down ordinary messages, and a call of 100 MB.
func BenchmarkStdio(b *testing.B) {
	box := string(sandbox.NewID())
	small := toolCall("1", "write_files", `{"sandbox_id":"`+box+`","files":[{"path":"a","text":"a few words"}]}`)
	huge := toolCall("1", "write_files", `{"sandbox_id":"`+box+`","files":[{"path":"a","base64":"`+strings.Repeat("QUJD", 100<<20/3)+`"}]}`)
	for _, c := range []struct {
		name, message string
		spool         bool
	}{{"small", small, true}, {"small without a spool", small, false}, {"huge", huge, true}} {
		b.Run(c.name, func(b *testing.B) {
			config := server.Config{}
			if c.spool {
				config.Spool = openSpool(b, 0)
			}
			in, client, _ := os.Pipe()
			answers, out, _ := os.Pipe()
			go server.New(tools.New(sink{}, tools.Config{}), config).ServeStdio(b.Context(), in, out)
			defer client.Close()
			r, line := bufio.NewReader(answers), []byte(c.message+"\n")
			b.SetBytes(int64(len(line)))
			b.ReportAllocs()
			for b.Loop() {
				client.Write(line)
				if answer, _ := r.ReadString('\n'); !strings.Contains(answer, "1 file written") {
					b.Fatal(answer)
				}
			}
		})
	}
}
