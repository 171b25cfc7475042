package tools

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
)

// fileArgument is one file of a files argument: a path in the workspace and one
// source.
type fileArgument struct {
	path   string
	source string   // which of the three fields
	value  string   // what is in it
	long   LongText // what is in it, when it is too long for value
}

// The fields of a file, besides its path.
const (
	sourceText   = "text"
	sourceBase64 = "base64"
	sourceLocal  = "local_path"
)

const filesExample = `[{"path": "in.csv", "text": "a,b\n1,2\n"}]`

// decodeFiles accepts a list of files, one file, and either as a JSON string.
func decodeFiles(v any) ([]fileArgument, error) {
	if long, ok := v.(LongText); ok {
		s, err := inMemory(filesName, long, maxFilesText)
		if err != nil {
			return nil, err
		}
		v = s
	}
	if s, ok := v.(string); ok {
		if err := wire.CheckShape([]byte(s), wire.MaxValues); err != nil {
			return nil, invalid("files is a string: %w", err)
		}
		var parsed any
		if err := json.Unmarshal([]byte(s), &parsed); err != nil {
			return nil, invalid("files must be a list of files, and is %s; an example: %s", describe(v), filesExample)
		}
		v = parsed
	}
	if one, ok := v.(map[string]any); ok {
		v = []any{one}
	}
	list, ok := v.([]any)
	if !ok {
		return nil, invalid("files must be a list of files, and is %s; an example: %s", describe(v), filesExample)
	}
	if len(list) > sandbox.MaxFiles {
		return nil, invalid("files has %d files, the limit is %d in one call: send the rest with write_files", len(list), sandbox.MaxFiles)
	}
	files := make([]fileArgument, 0, len(list))
	seen := make(map[string]bool)
	for i, item := range list {
		f, err := decodeFile(item)
		if err != nil {
			return nil, invalid("files[%d]: %w", i, err)
		}
		if seen[f.path] {
			return nil, invalid("files[%d]: %q is in the list twice", i, sandbox.Quote(f.path))
		}
		seen[f.path] = true
		files = append(files, f)
	}
	return files, nil
}

func decodeFile(item any) (fileArgument, error) {
	var f fileArgument
	fields, ok := item.(map[string]any)
	if !ok {
		return f, invalid("a file is an object, and this is %s; an example: %s", describe(item), filesExample)
	}
	var filled, empty []string
	for _, name := range []string{"path", sourceText, sourceBase64, sourceLocal} {
		s, isText := fields[name].(string)
		long, isLong := fields[name].(LongText)
		switch v := fields[name]; {
		case v == nil:
		case isLong && (name == sourceText || name == sourceBase64):
			filled, f.long = append(filled, name), long
		case isLong:
			return f, invalid("%s has %d bytes: no path is so long", name, long.Size())
		case !isText:
			return f, invalid("%s must be a string, and is %s (write JSON and numbers as text)", name, describe(v))
		case name == "path":
			f.path = s
		case s == "":
			empty = append(empty, name)
		default:
			filled = append(filled, name)
		}
	}
	for name := range fields {
		if name != "path" && name != sourceText && name != sourceBase64 && name != sourceLocal {
			near := nearest(name, []string{"path", sourceText, sourceBase64, sourceLocal})
			if near == "" {
				near = sourceText
				if f.path == "" && len(filled)+len(empty) > 0 {
					near = "path" // name, filename, …
				}
			}
			return f, invalid("a file has no field %q: did you mean %q? It has path and one of text, base64, local_path", sandbox.Quote(name), near)
		}
	}
	clean, err := sandbox.ParsePath(f.path)
	if err != nil {
		return f, err
	}
	f.path = clean
	switch {
	case len(filled) > 1:
		return f, invalid("%q has %s: give exactly one of text, base64, local_path", sandbox.Quote(f.path), strings.Join(filled, " and "))
	case len(filled) == 1:
		f.source = filled[0]
		f.value, _ = fields[f.source].(string)
	case len(empty) > 0 && empty[0] != sourceLocal: // an empty file is a file
		f.source = empty[0]
	default:
		return f, invalid("%q has no content: give one of text, base64, local_path", sandbox.Quote(f.path))
	}
	if f.source == sourceText && f.size() > sandbox.MaxFileBytes {
		return f, tooLarge(f.path)
	}
	return f, nil
}

// size is how long the source is, as it was written.
func (f fileArgument) size() int64 {
	if f.long != nil {
		return f.long.Size()
	}
	return int64(len(f.value))
}

func tooLarge(path string) error {
	return invalid("%q is larger than %d MiB, the limit of one file: split it", sandbox.Quote(path), sandbox.MaxFileBytes/sandbox.MiB)
}

// content is the one place where a string argument becomes a stream.
func (f fileArgument) content() io.Reader {
	if f.long != nil {
		return f.long.Open()
	}
	return strings.NewReader(f.value)
}

// open returns the file's bytes as a stream; nothing of it is copied in memory. The
// caller closes it.
func (t *toolset) open(f fileArgument) (io.ReadCloser, error) {
	if f.source == sourceLocal {
		return t.openLocal(f.value)
	}
	r := f.content()
	if f.source == sourceBase64 {
		r = newBase64Reader(r)
	}
	return io.NopCloser(r), nil
}

// writeAll writes the files in order and stops at the first that fails. It returns
// what was written, and an error that says what was not.
func (t *toolset) writeAll(ctx context.Context, name string, files []fileArgument) ([]sandbox.File, error) {
	var written []sandbox.File
	for i, f := range files {
		file, err := t.writeOne(ctx, name, f)
		if err != nil {
			return written, &filesError{failed: f.path, written: files[:i], missing: files[i+1:], cause: err}
		}
		written = append(written, file)
	}
	return written, nil
}

func (t *toolset) writeOne(ctx context.Context, name string, f fileArgument) (sandbox.File, error) {
	body, err := t.open(f)
	if err != nil {
		return sandbox.File{}, err
	}
	defer body.Close()
	source := &limitedSource{r: body, path: f.path, left: sandbox.MaxFileBytes}
	file, err := t.sandboxes.WriteFile(ctx, name, f.path, source)
	if source.err != nil { // the reason, where the daemon saw only a broken body
		err = source.err
	}
	return file, err
}

// limitedSource refuses to go beyond the limit of one file, and remembers why the
// source failed. The daemon's client may read it from another goroutine, but not
// after WriteFile has returned.
type limitedSource struct {
	r    io.Reader
	path string
	left int64
	err  error
}

func (s *limitedSource) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if s.left -= int64(n); s.left < 0 {
		n, err = 0, tooLarge(s.path)
	}
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// filesError says how far a list of files came.
type filesError struct {
	failed           string
	written, missing []fileArgument
	cause            error
}

func (e *filesError) Error() string { return fmt.Sprintf("write %q: %v", e.failed, e.cause) }
func (e *filesError) Unwrap() error { return e.cause }

// progress says which of the other files are there and which are not, for the model.
func (e *filesError) progress() string {
	s := ""
	if len(e.written) > 0 {
		s += " Written before it: " + pathList(e.written) + "."
	}
	if len(e.missing) > 0 {
		s += " Not written either: " + pathList(e.missing) + "."
	}
	return s
}

func pathList(files []fileArgument) string {
	const most = 20
	var paths []string
	for _, f := range files[:min(len(files), most)] {
		paths = append(paths, quotePath(f.path))
	}
	if len(files) > most {
		paths = append(paths, fmt.Sprintf("and %d more", len(files)-most))
	}
	return strings.Join(paths, ", ")
}
