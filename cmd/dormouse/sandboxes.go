package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

type lsCommand struct {
	State string `help:"Only sandboxes in this state: provisioning, running, suspended or terminated. Default: all but terminated."`
	JSON  bool   `help:"Print JSON." env:"-"`
	daemonFlags
}

// Validate is called by kong before Run.
func (c *lsCommand) Validate() error {
	if c.State == "" {
		return nil
	}
	_, err := sandbox.ParseState(c.State)
	return err
}

func (c *lsCommand) Run(ctx context.Context, k *kong.Context) error {
	req := sandbox.ListRequest{PageSize: sandbox.MaxPageSize}
	if c.State != "" {
		req.State, _ = sandbox.ParseState(c.State) // cannot fail: Validate has checked it
	}
	client, err := c.connect(ctx, k)
	if err != nil {
		return err
	}
	all := []sandbox.Sandbox{}
	for {
		page, err := client.List(ctx, req)
		if err != nil {
			return err
		}
		all = append(all, page.Sandboxes...)
		if req.PageToken = page.NextPageToken; req.PageToken == "" {
			break
		}
	}
	if c.JSON {
		return printJSON(all)
	}
	if len(all) == 0 {
		fmt.Fprintln(os.Stderr, "there are no sandboxes")
		return nil
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SANDBOX\tNAME\tSTATE\tLANGUAGE\tAGE\tEXPIRES")
	for _, s := range all {
		expires := "in " + formatDuration(time.Until(s.ExpireTime))
		if s.State == sandbox.Terminated {
			expires = s.Reason
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", s.ID, s.DisplayName, s.State, s.Language, formatDuration(time.Since(s.CreateTime)), expires)
	}
	return w.Flush()
}

type rmCommand struct {
	Sandboxes []string `arg:"" name:"sandbox" help:"Ids or display names."`
	JSON      bool     `help:"Print JSON." env:"-"`
	daemonFlags
}

func (c *rmCommand) Run(ctx context.Context, k *kong.Context) error {
	client, err := c.connect(ctx, k)
	if err != nil {
		return err
	}
	type removal struct {
		Sandbox string `json:"sandbox"`
		Deleted bool   `json:"deleted"`
		Error   string `json:"error,omitempty"`
	}
	var removals []removal
	failed := false
	for _, name := range c.Sandboxes {
		r := removal{Sandbox: name, Deleted: true}
		if err := client.Delete(ctx, name); err != nil {
			r.Deleted, r.Error, failed = false, sentence(err), true
		}
		removals = append(removals, r)
		if c.JSON {
			continue
		}
		if r.Deleted {
			fmt.Println(name)
		} else {
			fmt.Fprintln(os.Stderr, "dormouse:", r.Error)
		}
	}
	if c.JSON {
		if err := printJSON(removals); err != nil {
			return err
		}
	}
	if failed {
		return exitCode(exitFailed)
	}
	return nil
}

// formatDuration returns a duration as a number with one unit, such as 5s, 12m, 3h or 13d.
func formatDuration(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(max(d, 0).Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

func printJSON(v any) error {
	enc := json.NewEncoder(os.Stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
