package e2e_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/dormouse-sandbox/dormouse/"

// TestImports checks that no folder imports, directly or indirectly, a package that the table in ARCHITECTURE.md forbids for
// the folder.
func TestImports(t *testing.T) {
	page, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 || !strings.Contains(cells[1], "`") || !strings.Contains(cells[3], "`") {
			continue
		}
		rows++
		folder := strings.Trim(cells[1], " `")
		t.Run(folder, func(t *testing.T) {
			list := exec.Command("go", "list", "-deps", "./"+folder)
			list.Env = append(os.Environ(), "GOOS=linux") // some packages have files for Linux only
			out, err := list.Output()
			if err != nil {
				t.Fatalf("go list -deps ./%s: %v", folder, err)
			}
			for dep := range strings.Lines(string(out)) {
				dep = strings.TrimPrefix(strings.TrimSpace(dep), module)
				for _, banned := range strings.Fields(strings.ReplaceAll(cells[3], "`", "")) {
					if dep == banned || strings.HasPrefix(dep, banned+"/") {
						// A folder may import its own packages, even if they are below a forbidden folder.
						if dep == folder || strings.HasPrefix(dep, folder+"/") {
							continue
						}
						t.Errorf("%s imports %s, which ARCHITECTURE.md forbids", folder, dep)
					}
				}
			}
		})
	}
	if rows < 10 {
		t.Errorf("found %d rows of the import table in ARCHITECTURE.md, want at least 10; the test expects four columns with the folder in the first and the forbidden imports in the third", rows)
	}
}
