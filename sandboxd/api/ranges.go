package api

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// byteRange is the part of a file that a request asks for.
type byteRange struct {
	given  bool // the request asks for a part and not for the whole file
	offset int64
	length int64 // negative: up to the end
	suffix int64 // if positive: the request asks for the last suffix bytes, and offset and length are not known yet
}

// parseRange parses the Range header, which must contain one range of bytes. It ignores the header if the request also has
// If-Range: the API sends no validators for files, so the condition can't be met and the answer is the whole file.
func parseRange(r *http.Request) (byteRange, error) {
	whole := byteRange{length: -1}
	h := r.Header.Get("Range")
	if h == "" || r.Header.Get("If-Range") != "" || r.Method != http.MethodGet {
		return whole, nil
	}
	bad := sandbox.Errorf(sandbox.Invalid, "Range %q is not supported: ask for one range of bytes, such as bytes=0-1023, bytes=1024- or bytes=-512", sandbox.Quote(h))
	unit, spec, _ := strings.Cut(h, "=")
	first, last, ok := strings.Cut(spec, "-")
	if !ok || strings.TrimSpace(unit) != "bytes" {
		return whole, bad
	}
	from, fromOK := digits(first)
	to, toOK := digits(last)
	switch {
	case strings.TrimSpace(first) == "" && toOK && to > 0:
		return byteRange{given: true, suffix: to}, nil
	case fromOK && strings.TrimSpace(last) == "":
		return byteRange{given: true, offset: from, length: -1}, nil
	case fromOK && toOK && from <= to:
		return byteRange{given: true, offset: from, length: to - from + 1}, nil
	}
	return whole, bad
}

// digits parses a position in a file. It replaces a position beyond sandbox.MaxOffset with sandbox.MaxOffset, which is beyond the end of
// every file.
func digits(s string) (int64, bool) {
	s = strings.TrimSpace(s)
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n > sandbox.MaxOffset {
		return sandbox.MaxOffset, true
	}
	return n, true
}
