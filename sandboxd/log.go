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

// NewLogger returns a logger to a file at a level (debug, info, warn or error): in colour
// for a person at a terminal, else JSON.
func NewLogger(f *os.File, level string) *slog.Logger {
	l, _ := parseLevel(level) // info, if it is no level
	if !isatty.IsTerminal(f.Fd()) {
		return slog.New(slog.NewJSONHandler(f, &slog.HandlerOptions{Level: l, ReplaceAttr: detailed}))
	}
	return slog.New(tint.NewTextHandler(f, &tint.Options{Level: l, TimeFormat: time.TimeOnly, ReplaceAttr: harmless}))
}

func parseLevel(s string) (l slog.Level, err error) {
	if s == "" {
		return slog.LevelInfo, nil
	}
	if err := l.UnmarshalText([]byte(s)); err != nil {
		return slog.LevelInfo, sandbox.Errorf(sandbox.Invalid, "log level %q is not known: use debug, info, warn or error", sandbox.Quote(s))
	}
	return l, nil
}

// detailed shows an error with the causes that nobody else is shown.
func detailed(_ []string, a slog.Attr) slog.Attr {
	if err, ok := a.Value.Any().(error); ok {
		return slog.String(a.Key, sandbox.Details(err))
	}
	return a
}

// harmless is that, and quotes a value that could move a terminal's cursor. (JSON does that by itself.)
func harmless(groups []string, a slog.Attr) slog.Attr {
	a = detailed(groups, a)
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

// lineLogger takes the lines that net/http logs, which may quote what a stranger sent.
type lineLogger struct{ log *slog.Logger }

func (l lineLogger) Write(p []byte) (int, error) {
	l.log.Debug("http", "text", strconv.QuoteToASCII(sandbox.Quote(strings.TrimSpace(string(p)))))
	return len(p), nil
}
