package kernels_test

import (
	"io/fs"
	"slices"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/kernels"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

func TestEveryLanguageHasAKernel(t *testing.T) {
	var got []sandbox.Language
	for _, language := range kernels.Languages {
		got = append(got, sandbox.Language(language.Name))
	}
	if !slices.Equal(got, sandbox.Languages) {
		t.Errorf("kernels.Languages has %q, want %q as in sandbox.Languages", got, sandbox.Languages)
	}
}

func TestEveryProgramIsEmbedded(t *testing.T) {
	programs := []string{"python/dormouse_kernel/__init__.py"}
	for _, language := range kernels.Languages {
		programs = append(programs, language.Program)
	}
	for _, program := range programs {
		if _, err := fs.Stat(kernels.Files, program); err != nil {
			t.Errorf("%v: the go:embed line must include it", err)
		}
	}
}
