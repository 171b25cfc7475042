//go:build linux

package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
)

// counter returns a handler that counts its requests in memory and appends each number to a file that stays open. The
// response is the file's content.
func counter() http.HandlerFunc {
	var mu sync.Mutex
	var n int
	var file *os.File
	return func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		path := filepath.Join(engine.RunDir, "count")
		var err error
		if file == nil {
			file, err = os.Create(path)
		}
		if err == nil {
			n++
			_, err = fmt.Fprintf(file, "%d ", n)
		}
		var text []byte
		if err == nil {
			text, err = os.ReadFile(path)
		}
		answerOutput(w, text, err)
	}
}
