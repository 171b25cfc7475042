//go:build unix

package e2e_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// clientKeys lists the values that --print-config accepts.
var clientKeys = []string{"claude-code", "claude-desktop", "cursor", "vscode", "codex", "gemini", "windsurf", "zed", "goose"}

// printConfig returns what --print-config prints on stdout (config) and stderr (notes) for the client with the given key. In
// config, the path of the binary is replaced by /path/to/dormouse, the path that the documentation uses.
func printConfig(t *testing.T, key string, env []string, flags ...string) (config, notes string) {
	t.Helper()
	cmd := exec.Command(binary, append([]string{"mcp", "--print-config", key}, flags...)...)
	cmd.Env = append([]string{"HOME=/home/me", "PATH=/bin"}, env...)
	var errout strings.Builder
	cmd.Stderr = &errout
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("--print-config %s: %v, %s", key, err, errout.String())
	}
	if !strings.Contains(string(out), binary) {
		t.Fatalf("--print-config %s does not contain the path of this binary: %s", key, out)
	}
	return strings.ReplaceAll(string(out), binary, "/path/to/dormouse"), errout.String()
}

// TestConfigInReadme checks that README.md's section about clients contains what --print-config prints.
// DORMOUSE_UPDATE_GOLDEN=1 rewrites the section.
func TestConfigInReadme(t *testing.T) {
	var table, blocks strings.Builder
	table.WriteString("\n| client | `CLIENT` | where it belongs |\n|---|---|---|\n")
	names := map[string][]string{} // maps each configuration to the names of the clients that use it
	var configs []string
	for _, key := range clientKeys {
		config, notes := printConfig(t, key, nil)
		note, _, _ := strings.Cut(notes, "\n")
		name, where, _ := strings.Cut(note, ": ")
		fmt.Fprintf(&table, "| %s | `%s` | %s |\n", name, key, where)
		if names[config] == nil {
			configs = append(configs, config)
		}
		names[config] = append(names[config], name)
	}
	for _, config := range configs {
		language := "json"
		switch {
		case strings.HasPrefix(config, "claude "):
			language = "sh"
		case strings.HasPrefix(config, "["):
			language = "toml"
		case strings.HasPrefix(config, "extensions"):
			language = "yaml"
		}
		fmt.Fprintf(&blocks, "\n%s:\n\n```%s\n%s```\n", strings.Join(names[config], ", "), language, config)
	}
	want := table.String() + "\n<details><summary>What it prints</summary>\n" + blocks.String() + "\n</details>\n\n"

	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	part := regexp.MustCompile(`(?s)(<!-- clients:[^\n]*-->\n)(.*)(<!-- /clients -->)`)
	found := part.FindStringSubmatchIndex(string(text))
	if found == nil {
		t.Fatal("README.md has no section between <!-- clients: … --> and <!-- /clients -->")
	}
	if string(text[found[4]:found[5]]) == want {
		return
	}
	if os.Getenv("DORMOUSE_UPDATE_GOLDEN") == "" {
		t.Fatalf("README.md's section about clients differs from the output of --print-config; run make golden; want:\n%s", want)
	}
	if err := os.WriteFile("README.md", []byte(string(text[:found[4]])+want+string(text[found[5]:])), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestConfigLinks checks that README.md's install links contain the configuration that --print-config prints, but with the
// command "dormouse", which the client finds in the PATH. The install links that --print-config prints must contain the path
// of this binary.
func TestConfigLinks(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		key, under, link string
		decode           func(string) ([]byte, error)
	}{
		{"cursor", "mcpServers", "https://cursor.com/en/install-mcp", base64.StdEncoding.DecodeString},
		{"vscode", "servers", "https://insiders.vscode.dev/redirect/mcp/install", func(s string) ([]byte, error) { return []byte(s), nil }},
	} {
		config, notes := printConfig(t, c.key, nil)
		want := entry(t, config, c.under)

		link := regexp.MustCompile(`\(` + regexp.QuoteMeta(c.link) + `[^)]*\)`).FindString(string(text))
		u, err := url.Parse(strings.Trim(link, "()"))
		if err != nil || u.Query().Get("name") != "dormouse" {
			t.Fatalf("README.md's install link for %s is %q (%v), want one with name=dormouse", c.key, link, err)
		}
		payload, err := c.decode(u.Query().Get("config"))
		var got map[string]any
		if err != nil || json.Unmarshal(payload, &got) != nil || got["command"] != "dormouse" {
			t.Fatalf("README.md's install link for %s contains the configuration %q (%v), want one with the command dormouse", c.key, payload, err)
		}
		got["command"] = want["command"]
		if !reflect.DeepEqual(got, want) {
			t.Errorf("README.md's install link for %s contains %v, want %v", c.key, got, want)
		}
		if !strings.Contains(notes, "or open "+c.key) {
			t.Errorf("--print-config %s prints no install link: %s", c.key, notes)
		}
	}
	_, notes := printConfig(t, "cursor", nil)
	_, query, _ := strings.Cut(strings.TrimSpace(notes), "?")
	values, _ := url.ParseQuery(query)
	payload, err := base64.StdEncoding.DecodeString(values.Get("config"))
	if err != nil || !strings.Contains(string(payload), `"command":"`+binary+`"`) {
		t.Errorf("Cursor's install link contains %q (%v), want this binary as the command", payload, err)
	}
	_, notes = printConfig(t, "vscode", nil)
	_, query, _ = strings.Cut(strings.TrimSpace(notes), "?")
	var decodedConfig map[string]any
	if query, err = url.PathUnescape(query); err != nil || json.Unmarshal([]byte(query), &decodedConfig) != nil || decodedConfig["name"] != "dormouse" || decodedConfig["command"] != binary {
		t.Errorf("VS Code's install link contains %q (%v), want this binary as the command", query, err)
	}
}

// entry returns the entry "dormouse" below the given key in a JSON configuration.
func entry(t *testing.T, config, under string) map[string]any {
	t.Helper()
	var doc map[string]map[string]map[string]any
	if err := json.Unmarshal([]byte(config), &doc); err != nil || doc[under]["dormouse"] == nil {
		t.Fatalf("the configuration %s has no entry dormouse under %s: %v", config, under, err)
	}
	return doc[under]["dormouse"]
}

// TestConfigHasFlags checks that the configuration that --print-config prints contains the environment variables that
// configure Dormouse, and, as arguments, the flags that were passed together with --print-config. A relative path in such a
// flag must become absolute.
func TestConfigHasFlags(t *testing.T) {
	// A comma in the value of --allow-dir separates two values unless it is escaped.
	flags := []string{"--home", "h", "--allow-dir", `/it's\, here`, "--allow-dir", "/b", "--ttl", "1w"}
	env := []string{"DORMOUSE_MAX_SANDBOXES=3", "DORMOUSE_TTL=2h", "DOCKER_HOST=unix:///d.sock", "UNRELATED=1"}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	config, _ := printConfig(t, "claude-desktop", env, flags...)
	want := map[string]any{
		"command": "/path/to/dormouse",
		"args":    []any{"mcp", `--allow-dir=/it's\, here`, "--allow-dir=/b", "--home=" + dir + "/h", "--ttl=168h0m0s"},
		"env":     map[string]any{"DORMOUSE_MAX_SANDBOXES": "3", "DOCKER_HOST": "unix:///d.sock"},
	}
	if got := entry(t, config, "mcpServers"); !reflect.DeepEqual(got, want) {
		t.Errorf("--print-config prints %v, want %v", got, want)
	}
	for key, says := range map[string][]string{
		"claude-code": {`claude mcp add dormouse --env DOCKER_HOST=unix:///d.sock --env DORMOUSE_MAX_SANDBOXES=3 -- /path/to/dormouse mcp '--allow-dir=/it'\''s\, here'`},
		"codex":       {"\n[mcp_servers.dormouse.env]\nDOCKER_HOST = \"unix:///d.sock\"\n", `"--allow-dir=/it's\\, here"`},
		"goose":       {"    envs:\n      DOCKER_HOST: \"unix:///d.sock\"\n"},
	} {
		config, _ := printConfig(t, key, env, flags...)
		for _, s := range says {
			if !strings.Contains(config, s) {
				t.Errorf("--print-config %s does not contain %s:\n%s", key, s, config)
			}
		}
	}
}
