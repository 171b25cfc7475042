package tools

import (
	"encoding/json"
	"strings"
)

// kind is what a parameter holds.
type kind string

const (
	text     kind = "string"
	integer  kind = "integer"
	number   kind = "number"
	duration kind = "duration" // a string such as "24h", or a number of seconds
	fileList kind = "files"
)

// param is a parameter, declared once: the schema that models read and the check
// that arguments pass both come from it.
type param struct {
	name     string
	kind     kind
	about    string // for the model
	required bool
	enum     []string
	min, max *float64
	example  string // JSON, for the sentence that says it is missing
}

type params []param

// filesSchema is the schema of a list of files: flat, because many clients refuse
// $ref and oneOf. Exactly one of the three sources is checked by our own decoding.
const filesSchema = `{"type":"array","maxItems":100,"items":{"type":"object","properties":{` +
	`"path":{"type":"string","description":"In /workspace, such as data/in.csv"},` +
	`"text":{"type":"string"},` +
	`"base64":{"type":"string"},` +
	`"local_path":{"type":"string","description":"A file on the user's computer, in an allowed folder"}},` +
	`"required":["path"]}`

// schema writes the JSON schema of the parameters, in their order. It can't use
// maps, which lose the order, and the order helps models.
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
		b, _ := json.Marshal(p.enum) // strings always marshal
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

// rawSchema is an output schema as its properties, "name:type" each; the first is
// required. It is small on purpose: it costs every prompt.
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
	b, _ := json.Marshal(s) // a string always marshals
	return string(b)
}
