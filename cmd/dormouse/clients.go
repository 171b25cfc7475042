package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// mcpServer is the command with which an MCP client starts Dormouse.
type mcpServer struct {
	Command string            `json:"command"`
	Args    []string          `json:"args"`
	Env     map[string]string `json:"env,omitempty"`
}

// mcpClient is an MCP client that can use Dormouse, and the form of its configuration.
type mcpClient struct {
	key    string // value of --print-config
	name   string
	where  string                   // where the user must put the configuration, such as the path of a file
	config func(s mcpServer) string // returns the client's configuration, ending in a newline
	link   func(s mcpServer) string // returns a link that installs the server with a click; nil if the client has no install links
}

// mcpClients lists the supported clients. README.md's section about clients is generated from it.
var mcpClients = []mcpClient{
	{key: "claude-code", name: "Claude Code", where: "run this command", config: claudeCommand},
	{key: "claude-desktop", name: "Claude Desktop", where: "claude_desktop_config.json (Settings, Developer, Edit Config)", config: jsonUnder("mcpServers")},
	{key: "cursor", name: "Cursor", where: "~/.cursor/mcp.json", config: jsonUnder("mcpServers"), link: cursorLink},
	{key: "vscode", name: "VS Code", where: ".vscode/mcp.json in a project, or the command MCP: Open User Configuration", config: jsonUnder("servers", `"type": "stdio"`), link: vscodeLink},
	{key: "codex", name: "Codex", where: "~/.codex/config.toml", config: codexConfig},
	{key: "gemini", name: "Gemini CLI", where: "~/.gemini/settings.json", config: jsonUnder("mcpServers")},
	{key: "windsurf", name: "Windsurf", where: "~/.codeium/windsurf/mcp_config.json", config: jsonUnder("mcpServers")},
	{key: "zed", name: "Zed", where: "~/.config/zed/settings.json", config: jsonUnder("context_servers", `"source": "custom"`)},
	{key: "goose", name: "goose", where: "~/.config/goose/config.yaml", config: gooseConfig},
}

// callSeconds is the timeout for one tool call, in seconds: the longest wait_seconds (300) plus the time to create a
// sandbox. It is set in the configuration because some clients otherwise give up after a minute.
const callSeconds = 360

func clientKeys() string {
	var keys []string
	for _, c := range mcpClients {
		keys = append(keys, c.key)
	}
	return strings.Join(keys, ", ")
}

func findClient(key string) (mcpClient, error) {
	for _, c := range mcpClients {
		if c.key == key {
			return c, nil
		}
	}
	return mcpClient{}, fmt.Errorf("--print-config does not support the client %q: use one of %s", key, clientKeys())
}

// printConfig writes the client's configuration to the writer out. It writes to the writer notes where the user must put the
// configuration.
func (c mcpClient) printConfig(out, notes io.Writer, s mcpServer) error {
	fmt.Fprintf(notes, "%s: %s\n", c.name, c.where)
	if c.link != nil {
		fmt.Fprintf(notes, "or open %s\n", c.link(s))
	}
	_, err := io.WriteString(out, c.config(s))
	return err
}

func claudeCommand(s mcpServer) string {
	words := []string{"claude", "mcp", "add", "dormouse"}
	for _, name := range slices.Sorted(maps.Keys(s.Env)) {
		words = append(words, "--env", name+"="+s.Env[name])
	}
	words = append(words, "--", s.Command)
	words = append(words, s.Args...)
	for i, w := range words {
		words[i] = shellQuote(w)
	}
	return strings.Join(words, " ") + "\n"
}

// jsonUnder returns a function for the field mcpClient.config. The function returns JSON with the indentation of a
// handwritten file, with the server below the given key. Each of extraFields is a line with a field that only some clients
// need.
func jsonUnder(key string, extraFields ...string) func(mcpServer) string {
	return func(s mcpServer) string {
		fields := append(slices.Clone(extraFields), `"command": `+inlineJSON(s.Command), `"args": `+inlineJSON(s.Args))
		if len(s.Env) > 0 {
			fields = append(fields, `"env": `+inlineJSON(s.Env))
		}
		return fmt.Sprintf("{\n  %q: {\n    \"dormouse\": {\n      %s\n    }\n  }\n}\n", key, strings.Join(fields, ",\n      "))
	}
}

func codexConfig(s mcpServer) string {
	text := fmt.Sprintf("[mcp_servers.dormouse]\ncommand = %s\nargs = %s\ntool_timeout_sec = %d\n", inlineJSON(s.Command), inlineJSON(s.Args), callSeconds)
	if len(s.Env) > 0 {
		text += "\n[mcp_servers.dormouse.env]\n"
		for _, name := range slices.Sorted(maps.Keys(s.Env)) {
			text += name + " = " + inlineJSON(s.Env[name]) + "\n"
		}
	}
	return text + codexHeadless
}

// codexHeadless is a comment in Codex's configuration for users of codex exec, which can't ask a person for approval.
const codexHeadless = `
# codex exec refuses delete_sandbox, the one tool that is marked as destructive, unless these lines are set:
# [mcp_servers.dormouse.tools.delete_sandbox]
# approval_mode = "approve"
`

func gooseConfig(s mcpServer) string {
	text := fmt.Sprintf("extensions:\n  dormouse:\n    name: dormouse\n    type: stdio\n    enabled: true\n    cmd: %s\n    args: %s\n    timeout: %d\n",
		inlineJSON(s.Command), inlineJSON(s.Args), callSeconds)
	if len(s.Env) > 0 {
		text += "    envs:\n"
		for _, name := range slices.Sorted(maps.Keys(s.Env)) {
			text += "      " + name + ": " + inlineJSON(s.Env[name]) + "\n"
		}
	}
	return text
}

func cursorLink(s mcpServer) string {
	return "cursor://anysphere.cursor-deeplink/mcp/install?name=dormouse&config=" + url.QueryEscape(base64.StdEncoding.EncodeToString([]byte(inlineJSON(s))))
}

func vscodeLink(s mcpServer) string {
	return "vscode:mcp/install?" + url.PathEscape(inlineJSON(struct {
		Name string `json:"name"`
		Type string `json:"type"`
		mcpServer
	}{"dormouse", "stdio", s}))
}

// inlineJSON returns v as JSON on one line. TOML and YAML files can contain the JSON of a string or a list, because it has
// the same meaning in these formats.
func inlineJSON(v any) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // cannot fail: v consists of strings, lists and maps
	return strings.TrimSuffix(b.String(), "\n")
}

// shellQuote quotes a word for a shell, if it needs quotes.
func shellQuote(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=+,./:@%"
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// configEnv lists the environment variables of other projects that decide where the engine and the home are. Clients do
// not pass these variables to the servers that they start, so thisServer puts them into the configuration, together with
// the DORMOUSE_ variables.
var configEnv = []string{"DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_CONTEXT", "DOCKER_CONFIG", "XDG_STATE_HOME"}

// thisServer returns the command with which a client can start this server: this binary, the flags on this process's
// command line except --print-config, and the environment variables that configure Dormouse.
func thisServer(k *kong.Context) (mcpServer, error) {
	exe, err := os.Executable()
	if err != nil {
		return mcpServer{}, fmt.Errorf("find the path of this program: %w", err)
	}
	s := mcpServer{Command: exe, Args: []string{"mcp"}, Env: map[string]string{}}
	given := map[string]bool{}
	for _, p := range k.Path {
		if p.Flag != nil {
			given[p.Flag.Name] = true
		}
	}
	for _, f := range k.Flags() {
		switch {
		case f.Name == "print-config" || f.Name == "help":
		case given[f.Name]:
			for _, v := range flagValues(f) {
				s.Args = append(s.Args, "--"+f.Name+"="+v)
			}
		default:
			for _, name := range f.Envs {
				if os.Getenv(name) != "" {
					s.Env[name] = strings.Join(flagValues(f), ",")
				}
			}
		}
	}
	for _, name := range configEnv {
		if v := os.Getenv(name); v != "" {
			s.Env[name] = v
		}
	}
	return s, nil
}

// flagValues returns the values of a flag after kong has parsed them, which makes paths absolute. It escapes commas in the
// values of a list, so that kong can parse the returned values again.
func flagValues(f *kong.Flag) []string {
	list, ok := f.Target.Interface().([]string)
	if !ok {
		return []string{fmt.Sprint(f.Target.Interface())}
	}
	list = slices.Clone(list)
	for i, v := range list {
		list[i] = strings.ReplaceAll(v, ",", `\,`) // kong splits a value at each unescaped comma
	}
	return list
}
