package api

import (
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
)

// query holds the query parameters of a request. All names are valid for the route, and each was given once.
type query map[string]string

// params returns the query parameters of a request. It returns an error if a parameter is not in names or was given more
// than once.
func params(r *http.Request, names ...string) (query, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, sandbox.Errorf(sandbox.Invalid, "the query cannot be parsed: percent-encode special characters in it, such as %% and ;")
	}
	q := make(query, len(values))
	for _, name := range slices.Sorted(maps.Keys(values)) {
		switch given := values[name]; {
		case !slices.Contains(names, name) && len(names) == 0:
			return nil, sandbox.Errorf(sandbox.Invalid, "%q is not a parameter here: this route has none", sandbox.Quote(name))
		case !slices.Contains(names, name):
			return nil, sandbox.Errorf(sandbox.Invalid, "%q is not a parameter here: use %s", sandbox.Quote(name), strings.Join(names, ", "))
		case len(given) > 1:
			return nil, sandbox.Errorf(sandbox.Invalid, "%s is given %d times: give it once", name, len(given))
		default:
			q[name] = given[0]
		}
	}
	return q, nil
}

// integer returns the value of a parameter, or the value of fallback if it was not given. The parameter must be a whole
// number from minimum to maximum.
func (q query) integer(name string, fallback, minimum, maximum int64) (int64, error) {
	s, ok := q[name]
	if !ok {
		return fallback, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < minimum || n > maximum {
		return 0, sandbox.Errorf(sandbox.Invalid, "%s=%q is not valid: use a whole number from %d to %d", name, sandbox.Quote(s), minimum, maximum)
	}
	return n, nil
}

// wait returns the parameter wait_seconds, or 0 if it was not given.
func (q query) wait() (float64, error) {
	s, ok := q["wait_seconds"]
	if !ok {
		return 0, nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, sandbox.Errorf(sandbox.Invalid, "wait_seconds=%q is not a number: use 0 to %d", sandbox.Quote(s), sandbox.MaxWaitSeconds)
	}
	return f, sandbox.ValidateWait(f)
}

// window returns the parameters offset, head and tail.
func (q query) window() (w sandbox.Window, err error) {
	if w.Offset, err = q.integer("offset", 0, 0, sandbox.MaxOffset); err != nil {
		return w, err
	}
	head, err := q.integer("head", 0, 0, sandbox.MaxOutputBytes)
	if err != nil {
		return w, err
	}
	tail, err := q.integer("tail", 0, 0, sandbox.MaxOutputBytes)
	w.Head, w.Tail = int(head), int(tail)
	return w, err
}

// validateWindow validates a window from a JSON body.
func validateWindow(w sandbox.Window) error {
	if w.Offset < 0 || w.Offset > sandbox.MaxOffset {
		return sandbox.Errorf(sandbox.Invalid, "offset %d is out of range: use 0 to %d", w.Offset, int64(sandbox.MaxOffset))
	}
	for _, n := range []int{w.Head, w.Tail} {
		if n < 0 || n > sandbox.MaxOutputBytes {
			return sandbox.Errorf(sandbox.Invalid, "head or tail is %d bytes, which is out of range: use 0 to %d", n, sandbox.MaxOutputBytes)
		}
	}
	return nil
}

// readJSON decodes a request's JSON body of at most limit bytes into v. If the request has a Content-Type, the type must be
// application/json, so that a form that a web page submits is refused.
func readJSON(w http.ResponseWriter, r *http.Request, limit int64, v any) error {
	if _, err := params(r); err != nil {
		return err
	}
	if s := r.Header.Get("Content-Type"); s != "" {
		if t, _, err := mime.ParseMediaType(s); err != nil || t != "application/json" {
			return &statusError{http.StatusUnsupportedMediaType, sandbox.Errorf(sandbox.Invalid, "the body must be JSON: send it with Content-Type: application/json")}
		}
	}
	if err := refuseEncoding(r); err != nil {
		return err
	}
	return wire.ReadJSON(w, r, limit, v)
}

// refuseEncoding returns an error for a compressed body. The API never decompresses input from clients.
func refuseEncoding(r *http.Request) error {
	switch e := r.Header.Get("Content-Encoding"); e {
	case "", "identity":
		return nil
	default:
		return &statusError{http.StatusUnsupportedMediaType, sandbox.Errorf(sandbox.Invalid, "Content-Encoding %q is not supported: send the body uncompressed", sandbox.Quote(e))}
	}
}
