package wire_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/wire"
)

// TestErrorsKeepTheirKind checks that each kind of error arrives with its kind and its message.
func TestErrorsKeepTheirKind(t *testing.T) {
	for _, kind := range []sandbox.Kind{sandbox.Invalid, sandbox.NotFound, sandbox.Expired, sandbox.Busy, sandbox.Limit, sandbox.Unavailable} {
		w := httptest.NewRecorder()
		wire.WriteError(w, sandbox.Errorf(kind, "what happened"))
		err := wire.ReadError(answer(w))
		if sandbox.KindOf(err) != kind || err.Error() != "what happened" {
			t.Errorf("an error of kind %s arrived as %v of kind %s", kind, err, sandbox.KindOf(err))
		}
	}
}

// TestErrorsOfAProxy checks the kind of the error for an answer without a JSON error, as a proxy sends it.
func TestErrorsOfAProxy(t *testing.T) {
	for status, want := range map[int]sandbox.Kind{
		http.StatusBadGateway:         sandbox.Unavailable,
		http.StatusServiceUnavailable: sandbox.Unavailable,
		http.StatusGatewayTimeout:     sandbox.Unavailable,
		http.StatusForbidden:          sandbox.Internal,
		http.StatusNotFound:           sandbox.Internal,
	} {
		w := httptest.NewRecorder()
		http.Error(w, "<html>an error page</html>", status)
		err := wire.ReadError(answer(w))
		if got := sandbox.KindOf(err); got != want {
			t.Errorf("status %d: the error %v is of kind %s, want %s", status, err, got, want)
		}
		if want == sandbox.Unavailable && errors.Unwrap(err) == nil {
			t.Errorf("status %d: the error %v has no cause for the log", status, err)
		}
	}
}

// answer returns a recorded answer as the answer to a request.
func answer(w *httptest.ResponseRecorder) *http.Response {
	resp := w.Result()
	resp.Request = httptest.NewRequest(http.MethodGet, "/v1/info", nil)
	return resp
}
