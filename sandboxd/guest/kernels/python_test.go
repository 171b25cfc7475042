//go:build unix

package kernels_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// pythons are the interpreters to test: the first python3 in PATH, and one with IPython, pandas and matplotlib.
func pythons(t *testing.T) map[string]string {
	found := map[string]string{}
	if python, err := exec.LookPath("python3"); err == nil {
		found["python3"] = python
	} else {
		t.Log("not tested: no python3 in PATH")
	}
	if python := os.Getenv("DORMOUSE_TEST_PYTHON"); python != "" {
		found["DORMOUSE_TEST_PYTHON"] = python
	} else {
		t.Log("not tested: DORMOUSE_TEST_PYTHON names no Python with IPython, pandas and matplotlib")
	}
	return found
}

func TestPython(t *testing.T) {
	for name, python := range pythons(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			k := start(t, "python", python)
			t.Logf("%s ready after %v", k.ready.Runner, time.Since(began).Round(time.Millisecond))
			testWarm(t, k, pythonWarm)
			runTestCases(t, k, pythonCases)
			if strings.HasPrefix(k.ready.Runner, "IPython") {
				runTestCases(t, k, ipythonCases)
			}
			if k.run("import pandas, matplotlib.pyplot").status == "ok" {
				runTestCases(t, k, dataCases)
			} else {
				t.Log("not tested: figures and data frames, because pandas or matplotlib is missing")
			}
			testInterrupts(t, k, "answer = 42", "answer", map[string]string{
				"a loop":          "print(1)\nwhile True: pass",
				"a sleep":         "import time, threading; threading.Thread(target=print, args=(1,)).start(); time.sleep(600)",
				"an await":        "import asyncio; asyncio.get_running_loop().call_soon(print, 1); await asyncio.sleep(600)",
				"asyncio.run":     "import asyncio\nasync def main():\n    asyncio.get_running_loop().call_soon(print, 1); await asyncio.sleep(600)\nasyncio.run(main())",
				"a loop of async": "import asyncio; await asyncio.sleep(0); print(1)\nwhile True: pass",
				"a subprocess":    "import subprocess; print(1, flush=True); subprocess.run(['sleep', '600'])",
				"printing":        "while True: print('x' * 100)",
			})
			testRenewal(t, k, pythonSeeds, pythonDraws, pythonRenewed)
			if k.run("import numpy").status == "ok" {
				testRenewal(t, k, numpySeeds, numpyDraws, pythonRenewed)
			} else {
				t.Log("not tested: numpy's random state, because numpy is missing")
			}
			testInterruptStorm(t, k, "for i in range(50): print(i)\nprint(i)")
			k.t = t
			k.run("import multiprocessing; pool = multiprocessing.Pool(1); before = bytes(multiprocessing.current_process().authkey)")
			k.renew("The random values of child processes that are already running are the same as in the other copies of this sandbox")
			k.run("pool.terminate(); pool.join()")
			k.renew("")
			if got := k.run("bytes(multiprocessing.current_process().authkey) != before").result["text/plain"]; got != "True" {
				t.Errorf("the authkey has changed: %s, want True", got)
			}
			k.run("import sys, types; sys.modules['torch'] = types.ModuleType('torch')")
			k.renew("The random values of torch are the same as in the other copies of this sandbox")
		})
	}
}

// TestPythonWithoutIPython checks that a kernel without IPython passes the same tests. It hides IPython from a Python
// that has it.
func TestPythonWithoutIPython(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		skipMissing(t, "python")
	}
	t.Parallel()
	without := t.TempDir()
	if err := os.MkdirAll(without+"/IPython", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(without+"/IPython/__init__.py", []byte("raise ImportError('not here')"), 0o644); err != nil {
		t.Fatal(err)
	}
	k := start(t, "python", python, "PYTHONPATH="+without)
	if !strings.HasPrefix(k.ready.Runner, "Python ") {
		t.Fatalf("runner = %q, want plain Python", k.ready.Runner)
	}
	k.drain()
	testWarm(t, k, pythonWarm)
	runTestCases(t, k, pythonCases)
	testRenewal(t, k, pythonSeeds, pythonDraws, pythonRenewed)
	testInterruptStorm(t, k, "for i in range(50): print(i)\nprint(i)")
}

// pythonWarm is the code for the parameter check of testWarm. It checks that all of these modules that are installed
// were imported, and that no name is bound to them.
const pythonWarm = `
import importlib.util as _util, sys as _sys
'ok' if all((_util.find_spec(n) is not None) == (n in _sys.modules) and n not in globals() for n in ('numpy', 'pandas', 'matplotlib')) else 'bad'
`

// Arguments for testRenewal: the code that sets the random state (Seeds), the code that prints random values (Draws),
// and the code that runs after the renewal (Renewed).
const (
	pythonSeeds = `
import random, uuid, ssl
random.seed(42)
class Own(random.Random):
    def seed(self, *a): super().seed(7)
mine, own = random.Random(1), Own()
mine.gauss(0, 1)
uuid._node, uuid._generate_time_safe = 42, None
hidden = random.Random(3)
import gc; gc.freeze()
`
	pythonDraws = `
for value in random.random(), mine.gauss(0, 1), own.random(), hidden.random(), uuid.getnode(): print(value)
`
	pythonRenewed = `
ssl.RAND_bytes(8); tuple(sorted([uuid.uuid4().version, uuid.uuid1().version])) == (1, 4) and 'ok'
`
	numpySeeds = `
import numpy as np
np.random.seed(42); np.random.standard_normal()
rng, other, held = np.random.default_rng(1), np.random.Generator(np.random.Philox(2)), [np.random.SFC64(3)]
state = np.random.RandomState(4); state.standard_normal()
odd = np.random.RandomState(np.random.PCG64(5))
`
	numpyDraws = `
for value in np.random.standard_normal(), rng.random(), other.random(), held[0].random_raw(), state.standard_normal(), odd.random(): print(value)
for value in rng.spawn(1)[0].random(), np.random.rand(): print(value)
`
)

var pythonCases = []testCase{
	{name: "the last expression is the result", cells: []string{"x = 20\nx + 1"}, result: "21"},
	{name: "variables persist", cells: []string{"kept = [1]", "kept.append(2)", "kept"}, result: "[1, 2]"},
	{name: "an assignment has no result", cells: []string{"y = 3"}},
	{name: "None is no result", cells: []string{"None"}},
	{name: "a semicolon hides the result", cells: []string{"3;  # quiet"}},
	{name: "_ is the last result", cells: []string{"40", "_ + 2"}, result: "42"},
	{name: "stdout and stderr are in order", cells: []string{"import sys\nprint('a'); print('b', file=sys.stderr); print('c')"}, text: "a\nb\nc\n"},
	{name: "output of a subprocess is in order", cells: []string{"import subprocess, os\nprint('a')\nsubprocess.run(['echo', 'b'])\nprint('c')\nos.system('echo d')\nprint('e')"}, text: "a\nb\nc\nd\ne\n"},
	{name: "!command runs in the shell", cells: []string{"if True:\n    !echo one; echo two\nprint('three')"}, text: "one\ntwo\nthree\n"},
	{name: "bash cells run", cells: []string{"%%bash\necho in bash"}, text: "in bash\n"},
	{name: "a string with ! at a line's start is a string", cells: []string{"'''\n!ls'''"}, result: `!ls`},
	{name: "a task continues while later cells await", cells: []string{"import asyncio\nasync def work(n):\n    await asyncio.sleep(.01); done.append(n)\ndone = []\ntask = asyncio.create_task(work(1), name='one')", "done, task.get_name()", "await asyncio.sleep(.1)\ndone"}, result: "[1]"},
	{name: "asyncio.run works while a task runs", cells: []string{"from asyncio import create_task\nasync def main():\n    await create_task(work(3)); return done\ncreate_task(work(2))\nasyncio.run(main())"}, result: "[1, 3]"},
	{name: "run_until_complete works while a task runs", cells: []string{"asyncio.get_event_loop().run_until_complete(asyncio.sleep(.1)); done"}, result: "[1, 3, 2]"},
	{name: "awaiting a failed task raises its error", cells: []string{"async def bad(): 1/0\nfailing = asyncio.create_task(bad())", "await failing"}, err: "ZeroDivisionError", not: []string{"base_events"}},
	{name: "an indented cell runs", cells: []string{"  a = 1\n  a"}, result: "1"},
	{name: "display() shows", cells: []string{"display(1, 'two')"}, displays: []string{"text/plain", "text/plain"}},
	{name: "_repr_html_ is shown", cells: []string{"class H:\n    def _repr_html_(self): return '<b>'\ndisplay(H())"}, displays: []string{"text/html"}},
	{name: "_repr_mimebundle_ is shown", cells: []string{"class M:\n    def _repr_mimebundle_(self, include=None, exclude=None): return {'application/json': {'a': 1}, 'image/png': b'123'}\ndisplay(M())"}, displays: []string{"image/png"}},
	{name: "a traceback shows the cell's lines only", cells: []string{"def f(n):\n    return 1 / n\n\nf(0)"},
		err: "ZeroDivisionError: division by zero", trace: []string{"line 4, in <module>", "line 2, in f", "return 1 / n"}, not: []string{"\x1b", "IPython"}},
	{name: "a chained exception shows both", cells: []string{"try:\n    1/0\nexcept Exception as e:\n    raise KeyError('k') from e"},
		err: "KeyError", trace: []string{"ZeroDivisionError", "direct cause"}},
	{name: "a syntax error shows its place", cells: []string{"x = 1\ny = = 2"}, err: "SyntaxError: invalid syntax", trace: []string{"line 2", "y = = 2", "^"}, not: []string{"Traceback"}},
	{name: "an indentation error shows its place", cells: []string{"if 1:\nprint()"}, err: "IndentationError", trace: []string{"line 2"}},
	{name: "a deep recursion has a short traceback", cells: []string{"def r(): r()\nr()"}, err: "RecursionError", trace: []string{"repeated"}},
	{name: "an exception whose __str__ fails is reported", cells: []string{"class E(Exception):\n    def __str__(self): raise ValueError\nraise E"}, err: "E: <exception str() failed>"},
	{name: "a value whose __repr__ fails raises the error", cells: []string{"class R:\n    def __repr__(self): raise ValueError('mute')\nR()"}, err: "ValueError: mute"},
	{name: "an allocation that is too large raises a MemoryError", cells: []string{"bytearray(1 << 62)"}, err: "MemoryError"},
	{name: "await works at the top level, again and again", cells: []string{"import asyncio\nawait asyncio.sleep(0)", "t = asyncio.create_task(asyncio.sleep(0, 7))\nawait t"}, result: "7"},
	{name: "asyncio.run works", cells: []string{"import asyncio\nasyncio.run(asyncio.sleep(0, 8))"}, result: "8"},
	{name: "input() fails with an explanation", cells: []string{"input('name?')"}, err: "RuntimeError: input() cannot work here: there is no person"},
	{name: "getpass() fails with an explanation", cells: []string{"import getpass; getpass.getpass()"}, err: "RuntimeError: getpass() cannot work here"},
	{name: "sys.exit ends the cell only", cells: []string{"kept = 1", "import sys; sys.exit(3)", "kept"}, result: "1"},
	{name: "sys.exit with a code is an error", cells: []string{"import sys; sys.exit(3)"}, err: "SystemExit: 3"},
	{name: "exit() without a code is no error", cells: []string{"exit()"}},
	{name: "stdout may be replaced, closed and deleted", cells: []string{"import sys, os\nsys.stdout = None\nsys.stderr.close()\nos.close(1)", "del sys.stdout", "print('back')"}, text: "back\n"},
	{name: "fd 1 is restored after os.close", cells: []string{"import os; os.close(1)", "_ = os.system('echo back')"}, text: "back\n"},
	{name: "__builtins__ are restored", cells: []string{"del __builtins__", "len([1])"}, result: "1"},
	{name: "bytes written to stdout.buffer appear", cells: []string{"import sys\n_ = sys.stdout.buffer.write('é\\n'.encode()[:1]); _ = sys.stdout.buffer.write('é\\n'.encode()[1:])"}, text: "é\n"},
	{name: "lone surrogates can be used", cells: []string{"print('\\udc80' == '\\udc80', '\\udc80'.isascii())"}, text: "True False\n"},
	{name: "stdout has a file number and is no terminal", cells: []string{"import sys; sys.stdout.reconfigure(encoding='utf-8'); (sys.stdout.isatty(), sys.stdout.fileno(), sys.stdout.encoding)"}, result: "(False, 1, 'utf-8')"},
	{name: "a forked child prints, and ends with its cell", cells: []string{"import os\nprint('a')\npid = os.fork()\nif pid: os.waitpid(pid, 0)\nprint('parent' if pid else 'child')"}, text: "a\nchild\nparent\n"},
	{name: "a function from a cell runs in a pool of processes", cells: []string{"def square(n): return n * n\nimport multiprocessing\nwith multiprocessing.Pool(2) as pool: squares = pool.map(square, range(4))\nsquares"}, result: "[0, 1, 4, 9]"},
	{name: "a class from a cell can be pickled", cells: []string{"class P: pass\nimport pickle\ntype(pickle.loads(pickle.dumps(P()))) is P, __name__"}, result: "(True, '__main__')"},
	{name: "a cell's function has its source", cells: []string{"def shown():\n    return 1  # here", "import inspect; inspect.getsource(shown)"}, result: "# here"},
	{name: "a warning goes to stderr", cells: []string{"import sys; _ = sys.stderr.write('w\\n')"}, text: "w\n"},
	{name: "a future import applies to later cells", cells: []string{"from __future__ import annotations", "def g(a: nowhere): pass\ng.__annotations__"}, result: "nowhere"},
	{name: "the kernel's own files can't be imported", cells: []string{"import sys\n[p for p in sys.path if 'kernels' in p], 'loop' in sys.modules"}, result: "([], False)"},
	{name: "subprocesses do not see the protocol's descriptors", cells: []string{"import os, subprocess\n[fd for fd in subprocess.run(['sh', '-c', 'ls /proc/$$/fd'], capture_output=True, text=True).stdout.split() if fd in '345']"}, result: "[]"},
	{name: "a huge value is cut with a note", cells: []string{"class Huge:\n    def __repr__(self): return 'x' * (3 << 20)\nHuge()"}, result: "characters left out"},
}

var ipythonCases = []testCase{
	{name: "magics work", cells: []string{"%%time\nsum(range(10))", "%who_ls nothing_of_that_kind"}, result: "[]"},
	{name: "an unknown magic is an error", cells: []string{"%nosuch"}, err: "UsageError"},
	{name: "captured output stays captured", cells: []string{"%%capture out\nprint(1)\n2", "out.stdout"}, result: `'1\n'`},
	{name: "shell output can be assigned", cells: []string{"lines = !echo a; echo b\nlist(lines)"}, result: "['a', 'b']"},
	{name: "IPython writes nothing to $HOME", cells: []string{"import os; [n for n in os.listdir(os.environ['HOME']) if 'ipython' in n]"}, result: "[]"},
}

var dataCases = []testCase{
	{name: "plt.show shows each figure once", cells: []string{"import matplotlib.pyplot as plt\nplt.plot([1]); plt.show(); plt.plot([2]); plt.show();"}, displays: []string{"image/png", "image/png"}},
	{name: "a figure that is not shown is shown at the end", cells: []string{"plt.figure(); plt.plot([1]);\nplt.figure(); plt.plot([2]);"}, displays: []string{"image/png", "image/png"}},
	{name: "a figure is not shown again in the next cell", cells: []string{"plt.plot([1]);", "1"}, result: "1"},
	{name: "a closed figure is not shown", cells: []string{"plt.plot([1]); plt.savefig('plot.png'); plt.close()"}},
	{name: "savefig and show both work", cells: []string{"plt.plot([1]); plt.savefig('plot.png'); plt.show()"}, displays: []string{"image/png"}},
	{name: "matplotlib.use(Agg) changes nothing", cells: []string{"import matplotlib; matplotlib.use('Agg')\nplt.plot([1]); plt.show()"}, displays: []string{"image/png"}},
	{name: "%matplotlib inline changes nothing", cells: []string{"%matplotlib inline\nplt.plot([1]);"}, displays: []string{"image/png"}},
	{name: "a figure as result is shown once", cells: []string{"fig, ax = plt.subplots()\nfig"}, result: "Figure"},
	{name: "a script that plots works in a subprocess", cells: []string{"import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import matplotlib.pyplot as p; p.plot([1]); p.show()']).returncode"}, result: "0"},
	{name: "a wide frame is not broken at 80 columns", cells: []string{"import pandas as pd\nprint('\\\\' in str(pd.DataFrame([range(1000, 1025)])))"}, text: "False\n"},
	{name: "a frame is text and HTML", cells: []string{"display(pd.DataFrame({'a': [1]}))"}, displays: []string{"text/html"}},
}
