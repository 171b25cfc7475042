//go:build unix

package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// This file checks that all ways to install Dormouse agree with each other. It reads the golden files of the MCP bundle's
// manifest and of the registry's entry. e2e/packaging/run validates these golden files with the official tools.
// clients_test.go compares README.md's section about clients and its install links with --print-config.

// readJSON reads and decodes a golden file of packaging/mcpb.
func readJSON(t *testing.T, file string) (v map[string]any) {
	t.Helper()
	text, err := os.ReadFile("packaging/mcpb/testdata/" + file)
	if err == nil {
		err = json.Unmarshal(text, &v)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// quote returns the part of a file that the first group of a regular expression matches. The expression must match exactly
// once.
func quote(t *testing.T, file, pattern string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile("(?m)"+pattern).FindAllStringSubmatch(string(text), -1)
	if len(found) != 1 {
		t.Fatalf("%s contains %d matches of %s, want 1", file, len(found), pattern)
	}
	return found[0][1]
}

// TestBundleAndRegistryAgree checks that a bundle starts the command that --print-config prints, and that the registry's entry
// describes this bundle and this repository.
func TestBundleAndRegistryAgree(t *testing.T) {
	entries := readJSON(t, "server.golden.json")
	module := quote(t, "go.mod", `^module (\S+)$`)
	owner := strings.TrimPrefix(module, "github.com/")
	if entries["name"] != "io.github."+owner || entries["repository"].(map[string]any)["url"] != "https://"+module {
		t.Errorf("server.json has the name %v and the repository %v, which do not match the module %s of go.mod", entries["name"], entries["repository"], module)
	}
	config, _ := printConfig(t, "claude-desktop", nil)
	decodedConfig := entry(t, config, "mcpServers")
	for _, file := range []string{"manifest-darwin.golden.json", "manifest-windows.golden.json"} {
		m := readJSON(t, file)
		start := m["server"].(map[string]any)["mcp_config"].(map[string]any)
		if !reflect.DeepEqual(start["args"], decodedConfig["args"]) {
			t.Errorf("%s starts dormouse with %v, --print-config with %v", file, start["args"], decodedConfig["args"])
		}
		for _, same := range [][2]any{{m["name"], strings.Split(owner, "/")[1]}, {m["display_name"], entries["title"]}, {m["description"], entries["description"]}, {m["version"], entries["version"]}} {
			if same[0] != same[1] {
				t.Errorf("%s contains %q, and server.json or go.mod contains %q", file, same[0], same[1])
			}
		}
	}
	for _, p := range entries["packages"].([]any) {
		p := p.(map[string]any)
		if at := fmt.Sprintf("https://%s/releases/download/v%v/dormouse-", module, entries["version"]); !strings.HasPrefix(p["identifier"].(string), at) {
			t.Errorf("server.json has a bundle at %s, want one below %s…", p["identifier"], at)
		}
		for _, v := range p["environmentVariables"].([]any) {
			name := v.(map[string]any)["name"].(string)
			config, _ := printConfig(t, "claude-desktop", []string{name + "=/somewhere"})
			if env, _ := entry(t, config, "mcpServers")["env"].(map[string]any); env[name] != "/somewhere" {
				t.Errorf("server.json has the variable %s, which the configuration of --print-config lacks: %v", name, env)
			}
		}
	}
}

// TestServiceFilesRunAcceptedCommands checks that the systemd units, the Dockerfile and compose.yaml run commands that the
// binary accepts, and that they use the same port and the same home.
func TestServiceFilesRunAcceptedCommands(t *testing.T) {
	user := quote(t, "packaging/systemd/user/dormouse.service", `^ExecStart=(.*)$`)
	system := quote(t, "packaging/systemd/system/dormouse.service", `^ExecStart=(.*)$`)
	image := quote(t, "Dockerfile", `^CMD \["(serve.*)"\]$`)
	compose := quote(t, "packaging/compose.yaml", `command: \[(serve.*)\]$`)
	image, compose = strings.ReplaceAll(image, `", "`, " "), strings.NewReplacer(`"`, "", ",", "").Replace(compose)
	if image != compose {
		t.Errorf("the Dockerfile's command is %q, compose.yaml's %q", image, compose)
	}
	for _, command := range []string{user, system, "dormouse " + image} {
		words := strings.Fields(command)
		out, err := exec.Command(binary, append(words[1:], "--help")...).CombinedOutput()
		if !strings.HasSuffix(words[0], "dormouse") || err != nil {
			t.Errorf("the command %q with --help fails: %v\n%s", command, err, out)
		}
	}
	homes := []string{
		quote(t, "packaging/systemd/system/dormouse.service", `^Environment=DORMOUSE_HOME=(\S+)$`),
		quote(t, "Dockerfile", `^ENV DORMOUSE_HOME=(\S+)`),
		quote(t, "Dockerfile", `^VOLUME (\S+)$`),
		quote(t, "packaging/compose.yaml", `- home:(\S+)$`),
		strings.TrimSuffix(quote(t, "packaging/compose.yaml", `cp dormouse:(\S+) `), "/token"),
	}
	if slices.Sort(homes); homes[0] != homes[len(homes)-1] {
		t.Errorf("the service files use the homes %q, want the same one in all", homes)
	}
	usual := quote(t, "cmd/dormouse/serve.go", `default:"127\.0\.0\.1:(\d+)"`)
	for _, port := range []string{quote(t, "Dockerfile", `^EXPOSE (\d+)$`), quote(t, "packaging/compose.yaml", `ports: \["127\.0\.0\.1:\$\{DORMOUSE_PORT:-(\d+)\}`)} {
		if port != usual {
			t.Errorf("the container uses the port %s, and the server's default is %s", port, usual)
		}
	}
}
