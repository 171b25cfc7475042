//go:build linux

package supervisor_test

import (
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestUserFilesDoNotRunBeforeAKernelIsReady checks that a new kernel runs no files from the home folder or the
// workspace before it has sent ready, although code can import them later.
func TestUserFilesDoNotRunBeforeAKernelIsReady(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.requireNode()
	kernels := func() map[sandbox.Language]sandbox.Kernel {
		t.Helper()
		status, err := b.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		found := map[sandbox.Language]sandbox.Kernel{}
		for _, k := range status.Kernels {
			found[k.Language] = k
		}
		return found
	}
	want(t, b.python("1"), sandbox.ExecSucceeded)
	want(t, b.javascript("1"), sandbox.ExecSucceeded)
	before := kernels()
	b.python(`
import os, site
folder = site.getusersitepackages()
os.makedirs(folder)
def write(name, text):
    with open(name, 'w') as file: file.write(text)
forge = "import platform; platform.python_version = lambda: '9.9'\n"
write(folder + '/usercustomize.py', forge + 'ran = True')
write(folder + '/forge.pth', forge)
write(folder + '/own.py', 'value = 7')
for name in 'IPython', 'traitlets', 'platform', 'json', 'dormouse_kernel', 'matplotlib_inline', 'decorator', 'usercustomize':
    write('/workspace/' + name + '.py', forge + "print('the workspace ran')")
os._exit(0)`)
	b.javascript(`
const fs = require('fs'), forge = "Object.defineProperty(process.versions, 'node', { value: '9.9' }); process.version = 'v9.9'; console.log('the workspace ran')"
for (const folder of ['/workspace/node_modules', process.env.HOME + '/.node_modules', process.env.HOME + '/.node_libraries']) {
  fs.mkdirSync(folder, { recursive: true })
  for (const name of ['channel.cjs', 'internal.js', 'fs.js', 'own.js']) fs.writeFileSync(folder + '/' + name, forge)
}
fs.writeFileSync('/workspace/package.json', '{"type": "module", "main": "node_modules/own.js", "imports": {"#own": "./node_modules/own.js"}}')
fs.writeFileSync('/workspace/.noderc', forge); fs.writeFileSync('/workspace/.env', 'NODE_OPTIONS=--require=/workspace/node_modules/own.js')
process.kill(process.pid, 'SIGKILL')`)
	if e := b.python("import own, sys, usercustomize; own.value, usercustomize.ran, sys.path[0]"); result(e) != "(7, True, '')" || text(e.Events) != "" {
		t.Errorf("the user's modules: %q, %+v, printed %q, want (7, True, '')", result(e), e.Error, text(e.Events))
	}
	if e := b.javascript("process.version"); text(e.Events) != "" || e.Interlude != nil && e.Interlude.LateText != "" {
		t.Errorf("the JavaScript kernel printed %q, %+v, want nothing", text(e.Events), e.Interlude)
	}
	after := kernels()
	for lang, k := range before {
		if got := after[lang]; got.Version != k.Version || got.Runner != k.Runner || got.Epoch != 2 {
			t.Errorf("the new %s kernel is %+v, want version %s and runner %s", lang, got, k.Version, k.Runner)
		}
	}
}
