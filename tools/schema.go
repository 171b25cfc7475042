package tools

import (
	"encoding/json"
	"strings"
)

// kind is the type of a parameter.
type kind string

const (
	text     kind = "string"
	integer  kind = "integer"
	number   kind = "number"
	duration kind = "duration" // a string such as "24h", or a number of seconds
	fileList kind = "files"
)

// param declares a parameter. Both the JSON schema for models and the check of arguments are derived from it.
type param struct {
	name     string
	kind     kind
	about    string // the description for the model
	required bool
	enum     []string
	min, max *float64
	example  string // an example value as JSON, for error messages
}

type params []param

// filesSchema is the beginning of the schema of a list of files. It is flat, because many clients reject $ref and
// oneOf. Therefore it cannot require exactly one of text, base64 and local_path; decodeFile checks that.
const filesSchema = `{"type":"array","maxItems":100,"items":{"type":"object","properties":{` +
	`"path":{"type":"string","description":"In /workspace, such as data/in.csv"},` +
	`"text":{"type":"string"},` +
	`"base64":{"type":"string"},` +
	`"local_path":{"type":"string","description":"A file on the user's computer, in an allowed folder"}},` +
	`"required":["path"]}`

// schema returns the JSON schema of the parameters. It writes the JSON itself instead of encoding maps, because a map
// would lose the order of the parameters, which helps models.
func (ps params) schema() json.RawMessage {
	var properties, required []string
	for _, p := range ps {
		properties = append(properties, quoteJSON(p.name)+":"+p.schema())
		if p.required {
			required = append(required, quoteJSON(p.name))
		}
	}
	s := `{"type":"object","properties":{` + strings.Join(properties, ",") + `}`
	if required != nil {
		s += `,"required":[` + strings.Join(required, ",") + `]`
	}
	return json.RawMessage(s + `,"additionalProperties":false}`)
}

func (p param) schema() string {
	if p.kind == fileList {
		return filesSchema + p.describe() + "}"
	}
	k := p.kind
	if k == duration {
		k = text
	}
	s := `{"type":` + quoteJSON(string(k))
	if p.enum != nil {
		b, _ := json.Marshal(p.enum) // encoding strings cannot fail
		s += `,"enum":` + string(b)
	}
	if p.min != nil {
		s += `,"minimum":` + decimal(*p.min)
	}
	if p.max != nil {
		s += `,"maximum":` + decimal(*p.max)
	}
	return s + p.describe() + "}"
}

func (p param) describe() string {
	if p.about == "" {
		return ""
	}
	return `,"description":` + quoteJSON(p.about)
}

// rawSchema is an output schema: a list of properties, each written as "name:type". Only the first property is
// required. The schema lists few properties on purpose, because it is part of every prompt.
type rawSchema []string

func (s rawSchema) json() json.RawMessage {
	if s == nil {
		return nil
	}
	var properties []string
	first := ""
	for _, p := range s {
		name, typ, _ := strings.Cut(p, ":")
		if first == "" {
			first = name
		}
		properties = append(properties, quoteJSON(name)+`:{"type":`+quoteJSON(typ)+`}`)
	}
	return json.RawMessage(`{"type":"object","properties":{` + strings.Join(properties, ",") + `},"required":[` + quoteJSON(first) + `]}`)
}

func quoteJSON(s string) string {
	b, _ := json.Marshal(s) // encoding a string cannot fail
	return string(b)
}
