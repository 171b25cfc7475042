package sandboxd

import (
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/lmittmann/tint"
	"github.com/mattn/go-isatty"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// NewLogger returns a logger that writes to f. level is debug, info, warn or error; any other level means info. If f is a
// terminal, the output is coloured text, otherwise JSON.
func NewLogger(f *os.File, level string) *slog.Logger {
	var l slog.Level
	if l.UnmarshalText([]byte(level)) != nil {
		l = slog.LevelInfo
	}
	if !isatty.IsTerminal(f.Fd()) {
		return slog.New(slog.NewJSONHandler(f, &slog.HandlerOptions{Level: l, ReplaceAttr: withCause}))
	}
	return slog.New(tint.NewTextHandler(f, &tint.Options{Level: l, TimeFormat: time.TimeOnly, ReplaceAttr: quoteUnprintable}))
}

// withCause is a ReplaceAttr function that adds to an error the causes that clients never see.
func withCause(_ []string, a slog.Attr) slog.Attr {
	if err, ok := a.Value.Any().(error); ok {
		return slog.String(a.Key, sandbox.Details(err))
	}
	return a
}

// quoteUnprintable is a ReplaceAttr function for terminals. It does what withCause does, and quotes values with
// unprintable characters, which could control the terminal. (JSON output needs no quoting, because JSON escapes these
// characters.)
func quoteUnprintable(groups []string, a slog.Attr) slog.Attr {
	a = withCause(groups, a)
	if k := a.Value.Kind(); k != slog.KindString && k != slog.KindAny {
		return a
	}
	if _, level := a.Value.Any().(slog.Level); level {
		return a
	}
	if s := a.Value.String(); strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return slog.String(a.Key, strconv.QuoteToASCII(s))
	}
	return a
}
