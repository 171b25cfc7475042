package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
)

const (
	name  = "dormouse"
	title = "Dormouse"
	// description has at most 100 characters, which is the registry's limit.
	description = "Sandboxes without network in which an agent runs Python and JavaScript and keeps its variables"
	needs       = "Needs a Docker engine on this machine."

	registryName   = "io.github.dormouse-sandbox/" + name
	repository     = "https://github.com/dormouse-sandbox/dormouse"
	repositoryRaw  = "https://raw.githubusercontent.com/dormouse-sandbox/dormouse"
	registrySchema = "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"
)

// args are the arguments with which dormouse serves MCP on stdio, the same arguments that `dormouse mcp --print-config` prints.
var args = []string{"mcp"}

// environment lists the environment variables that a user may have to set in a client, because clients pass few of their
// own environment variables to the servers that they start.
var environment = []variable{
	{"DOCKER_HOST", "Where the Docker engine is, if it is not in a usual place: unix:///run/user/1000/docker.sock"},
	{"DORMOUSE_HOME", "Where Dormouse keeps its state, if not in the user's own folder for state"},
}

type variable struct{ name, description string }

type object = map[string]any

// semver matches the versions that a manifest may have. It does not match the hash of a commit, which is the version of a
// build without a tag.
var semver = regexp.MustCompile(`^v?(\d+\.\d+\.\d+.*)$`)

func semantic(version string) string {
	if m := semver.FindStringSubmatch(version); m != nil {
		return m[1]
	}
	return "0.0.0-" + version
}

// entryPoint returns the path of the binary inside a bundle.
func entryPoint(goos string) string {
	if goos == "windows" {
		return "server/" + name + ".exe"
	}
	return "server/" + name
}

// manifest returns the manifest of a bundle, with the description, the start command and the tools of Dormouse. The tools
// are read from golden, the content of tools/testdata/tools.golden.json.
func manifest(version, goos string, golden []byte) ([]byte, error) {
	var tools []struct {
		Name        string `json:"name"`
		Description string `json:"description"`
	}
	if err := json.Unmarshal(golden, &tools); err != nil {
		return nil, fmt.Errorf("read the tools: %w", err)
	}
	return indented(object{
		"manifest_version": "0.3",
		"name":             name,
		"display_name":     title,
		"version":          semantic(version),
		"description":      description,
		"long_description": description + ". " + needs,
		"author":           object{"name": title, "url": repository},
		"repository":       object{"type": "git", "url": repository},
		"license":          "Apache-2.0",
		"icon":             "icon.png",
		"keywords":         []string{"sandbox", "code execution", "python", "javascript"},
		"server": object{
			"type":        "binary",
			"entry_point": entryPoint(goos),
			"mcp_config":  object{"command": "${__dirname}/" + entryPoint(goos), "args": args},
		},
		"tools":         tools,
		"compatibility": object{"platforms": []string{strings.Replace(goos, "windows", "win32", 1)}},
	})
}

// madeBundle is a bundle's file name in a release and the SHA-256 sum of the file.
type madeBundle struct{ file, sha256 string }

// registryEntry returns the content of server.json, which `mcp-publisher publish` sends to the MCP registry once the
// release exists. server.json does not contain the start command, because the manifest of each bundle contains it.
func registryEntry(version string, bundles []madeBundle) ([]byte, error) {
	tag := "v" + semantic(version)
	var variables, packages []object
	for _, v := range environment {
		variables = append(variables, object{"name": v.name, "description": v.description})
	}
	for _, b := range bundles {
		packages = append(packages, object{
			"registryType":         "mcpb",
			"identifier":           repository + "/releases/download/" + tag + "/" + b.file,
			"version":              semantic(version),
			"fileSha256":           b.sha256,
			"transport":            object{"type": "stdio"},
			"environmentVariables": variables,
		})
	}
	return indented(object{
		"$schema":     registrySchema,
		"name":        registryName,
		"title":       title,
		"description": description,
		"version":     semantic(version),
		"repository":  object{"url": repository, "source": "github"},
		"websiteUrl":  repository,
		"icons":       []object{{"src": repositoryRaw + "/" + tag + "/packaging/icon.png", "mimeType": "image/png", "sizes": []string{"512x512"}}},
		"packages":    packages,
	})
}

func indented(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(v)
	return b.Bytes(), err
}
