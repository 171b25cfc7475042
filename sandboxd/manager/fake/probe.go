package fake

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
)

// handleProbe adds the requests that the conformance suite sends to its own guest, enginetest/probe, and that make
// sense without a container.
func (g *Guest) handleProbe(mux *http.ServeMux) {
	mux.HandleFunc("GET /args", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(engine.GuestArgs(g.spec)[2:])
	})
	mux.HandleFunc("POST /count", func(w http.ResponseWriter, _ *http.Request) {
		g.change(func() {
			g.count++
			for n := range g.count {
				fmt.Fprintf(w, "%d ", n+1)
			}
		})
	})
	mux.HandleFunc("PUT /blob", func(w http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		g.change(func() { g.files["blob"] = data })
	})
	mux.HandleFunc("GET /blob", func(w http.ResponseWriter, _ *http.Request) {
		g.mu.Lock()
		data := g.files["blob"]
		g.mu.Unlock()
		_, _ = w.Write(data)
	})
	mux.HandleFunc("GET /streams", func(w http.ResponseWriter, _ *http.Request) {
		g.mu.Lock()
		defer g.mu.Unlock()
		fmt.Fprintln(w, len(g.open))
	})
	mux.HandleFunc("GET /posture/kernel", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "no isolation")
	})
	mux.HandleFunc("POST /hog/sleep", func(w http.ResponseWriter, r *http.Request) { // the response ends when the client closes the stream
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
		case <-g.ctx.Done():
		}
	})
	mux.HandleFunc("POST /exit", func(_ http.ResponseWriter, r *http.Request) {
		g.exit()
		<-r.Context().Done()
	})
}
