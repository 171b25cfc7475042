package api

import "context"

// Routes returns the patterns of the route table.
func Routes() []string {
	var patterns []string
	for _, r := range NewHandler(nil, func(context.Context) Info { return Info{} }, nil).routes() {
		patterns = append(patterns, r.pattern)
	}
	return patterns
}

// OpenAPI returns the embedded OpenAPI document.
func OpenAPI() []byte { return openAPI }
