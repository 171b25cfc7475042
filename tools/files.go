package tools

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
	"github.com/dormouse-sandbox/dormouse/tools/render"
)

// fileArgument is one file of a files argument: a path in the workspace and the source of its content.
type fileArgument struct {
	path   sandbox.Path
	source string   // the name of the field that has the content: sourceText, sourceBase64 or sourceLocal
	value  string   // the value of the field that source names
	long   LongText // the value of that field, if it is too long to be held in memory; value is then empty
}

// The fields that can be the source of a file's content.
const (
	sourceText   = "text"
	sourceBase64 = "base64"
	sourceLocal  = "local_path"
)

const filesExample = `[{"path": "in.csv", "text": "a,b\n1,2\n"}]`

// decodeFiles decodes the files argument. It accepts a list of files or a single file, each also as a string of JSON.
func decodeFiles(v any) ([]fileArgument, error) {
	if long, ok := v.(LongText); ok {
		s, err := readIntoMemory(filesName, long, maxFilesText)
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
	seen := make(map[sandbox.Path]bool)
	for i, item := range list {
		f, err := decodeFile(item)
		if err != nil {
			return nil, invalid("files[%d]: %w", i, err)
		}
		if seen[f.path] {
			return nil, invalid("files[%d]: %q is in the list twice", i, sandbox.Quote(string(f.path)))
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
	var given string // the path as the client wrote it
	var filled, empty []string
	for _, name := range []string{"path", sourceText, sourceBase64, sourceLocal} {
		s, isText := fields[name].(string)
		long, isLong := fields[name].(LongText)
		switch v := fields[name]; {
		case v == nil:
		case isLong && (name == sourceText || name == sourceBase64):
			filled, f.long = append(filled, name), long
		case isLong:
			return f, invalid("%s has %d bytes, which is too long for a path", name, long.Size())
		case !isText:
			return f, invalid("%s must be a string, and is %s (write JSON and numbers as text)", name, describe(v))
		case name == "path":
			given = s
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
				if given == "" && len(filled)+len(empty) > 0 {
					near = "path" // the file has content, but no path: the unknown field, such as filename, is probably its path
				}
			}
			return f, invalid("a file has no field %q: did you mean %q? It has path and one of text, base64, local_path", sandbox.Quote(name), near)
		}
	}
	var err error
	if f.path, err = sandbox.ParsePath(given); err != nil {
		return f, err
	}
	switch {
	case len(filled) > 1:
		return f, invalid("%q has %s: give exactly one of text, base64, local_path", sandbox.Quote(string(f.path)), strings.Join(filled, " and "))
	case len(filled) == 1:
		f.source = filled[0]
		f.value, _ = fields[f.source].(string)
	case len(empty) > 0 && empty[0] != sourceLocal: // the file is empty
		f.source = empty[0]
	default:
		return f, invalid("%q has no content: give one of text, base64, local_path", sandbox.Quote(string(f.path)))
	}
	return f, nil
}

// content returns the text or base64 of the argument as a stream.
func (f fileArgument) content() io.Reader {
	if f.long != nil {
		return f.long.Open()
	}
	return strings.NewReader(f.value)
}

// open returns the file's bytes as a stream, without a copy of the file in memory. The caller must close the stream.
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

// writeAll writes the files in order and stops at the first error. It returns the files that it wrote. The error is a
// *filesError, which lists the files that it did not write.
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
	return t.sandboxes.WriteFile(ctx, name, f.path, body)
}

// filesError is the error of writeAll. It contains the path of the file that failed, the files that were written before
// it, and the files after it, which were not tried (missing).
type filesError struct {
	failed           sandbox.Path
	written, missing []fileArgument
	cause            error
}

func (e *filesError) Error() string { return fmt.Sprintf("write %q: %v", e.failed, e.cause) }
func (e *filesError) Unwrap() error { return e.cause }

// progress returns sentences for the model that list the files that were written and the files that were not tried.
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
	const maximum = 20
	var paths []string
	for _, f := range files[:min(len(files), maximum)] {
		paths = append(paths, render.QuotePath(f.path))
	}
	if len(files) > maximum {
		paths = append(paths, fmt.Sprintf("and %d more", len(files)-maximum))
	}
	return strings.Join(paths, ", ")
}
