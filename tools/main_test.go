package tools_test

import (
	"os"
	"testing"

	"github.com/dormouse-sandbox/dormouse/tools"
)

func TestMain(m *testing.M) {
	tools.RunPictureWorker() // tests start this binary as the worker that decodes pictures
	os.Exit(m.Run())
}
