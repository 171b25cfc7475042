package render_test

import (
	"os"
	"testing"

	"github.com/dormouse-sandbox/dormouse/tools/render"
)

func TestMain(m *testing.M) {
	render.RunPictureWorker() // tests start this binary as the worker that decodes pictures
	os.Exit(m.Run())
}
