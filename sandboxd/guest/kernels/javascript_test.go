//go:build unix

package kernels_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

func TestJavaScript(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		skipMissing(t, "node")
	}
	t.Parallel()
	began := time.Now()
	k := start(t, "javascript", node)
	t.Logf("%s ready after %v", k.ready.Runner, time.Since(began).Round(time.Millisecond))
	testWarm(t, k, "'ok'")
	runTestCases(t, k, javascriptCases)
	testInterrupts(t, k, "const answer = 42", "answer", map[string]string{
		"a loop":                "console.log(1); while (true) {}",
		"an await":              "setTimeout(() => console.log(1)); await new Promise(() => {})",
		"a loop after an await": "await new Promise(r => setTimeout(r, 5)); console.log(1); while (true) {}",
		"printing":              "while (true) console.log('x'.repeat(100))",
		"a subprocess":          "console.log(1); require('child_process').execSync('sleep 600')",
	})
	testRenewedCrypto(t, k)
	testInterruptStorm(t, k, "for (let i = 0; i < 5; i++) console.log(i)\n42")
}

// testRenewedCrypto checks that the functions with which the kernel replaces functions of Node behave like the
// originals, before and after a renewal of the random state. The tests of the gvisor engine check that they return
// different values in sandboxes that start from the same memory.
func testRenewedCrypto(t *testing.T, k *kernel) {
	for _, renewed := range []bool{false, true} {
		if renewed {
			k.t = t
			k.renew("The values of Math.random in existing vm contexts") // the kernel must name no other state that it can't renew
		}
		for name, code := range map[string]string{
			"randomBytes":            "crypto.randomBytes(20).length === 20 && crypto.randomBytes(0).length === 0",
			"randomBytes later":      "(await new Promise((r) => crypto.randomBytes(9, (e, b) => r(b)))).length === 9",
			"randomBytes of nothing": "throws(() => crypto.randomBytes()) && throws(() => crypto.randomBytes(-1)) && throws(() => crypto.randomBytes(1, 2))",
			"randomFillSync":         "const f = Buffer.alloc(40); crypto.randomFillSync(f, 10, 20) === f && f.subarray(0, 10).every((b) => !b) && f.subarray(30).every((b) => !b) && f.subarray(10, 30).some((b) => b)",
			"randomFillSync of wide": "const w = new Uint32Array(40); crypto.randomFillSync(w, 10, 20); w.subarray(0, 10).every((b) => !b) && w.subarray(30).every((b) => !b) && new Set(w.subarray(10, 30)).size > 15",
			"randomFillSync of raw":  "new Set(new Uint8Array(crypto.randomFillSync(new ArrayBuffer(300)))).size > 50",
			"randomFill":             "(await new Promise((r) => crypto.randomFill(new Uint8Array(300), 100, (e, b) => r(b)))).filter((b) => b).length > 100",
			"randomInt":              "Array.from({length: 2000}, () => crypto.randomInt(3, 6)).sort().filter((v, i, a) => v !== a[i - 1]).join() === '3,4,5' && crypto.randomInt(1) === 0",
			"randomInt later":        "(await new Promise((r) => crypto.randomInt(5, (e, n) => r(n)))) < 5 && throws(() => crypto.randomInt(6, 3))",
			"randomUUID":             "/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(crypto.randomUUID()) && crypto.randomUUID.name === 'randomUUID'",
			"getRandomValues":        "const g = new Uint16Array(300); globalThis.crypto.getRandomValues(g) === g && new Set(g).size > 250 && crypto.webcrypto.randomUUID().length === 36 && throws(() => globalThis.crypto.getRandomValues(new Float32Array(1)))",
			"import":                 "(await import('node:crypto')).randomBytes === crypto.randomBytes && crypto.rng === crypto.randomBytes",
			"keys":                   "crypto.generateKeySync.length === 2 && typeof crypto.createECDH('secp256k1').getPublicKey === 'function' && crypto.createECDH.name === 'createECDH'",
			"Math.random":            "new Set(Array.from({length: 10000}, Math.random)).size === 10000",
		} {
			t.Run(name, func(t *testing.T) {
				k.t = t
				o := k.run("var crypto = require('crypto'); var throws = (f) => { try { f() } catch { return true } }\n" + code)
				if o.result["text/plain"] != "true" {
					t.Errorf("result = %v, renewed: %t, want true: %+v", o.result, renewed, o.all)
				}
			})
		}
	}
}

// TestJavaScriptReportsMissingAddons checks that a kernel without its addons reports that it can't renew OpenSSL's
// random generator.
func TestJavaScriptReportsMissingAddons(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		skipMissing(t, "node")
	}
	t.Parallel()
	k := start(t, "javascript", node)
	addons, err := filepath.Glob(filepath.Join(k.root, "javascript", "*.node"))
	if err != nil || len(addons) != 2 {
		t.Fatalf("addons = %q, %v, want 2", addons, err)
	}
	for _, addon := range addons {
		if err := os.Remove(addon); err != nil {
			t.Fatal(err)
		}
	}
	k.renew("The keys and random bytes of node:crypto are the same as in the other copies of this sandbox")
}

var javascriptCases = []testCase{
	{name: "the last expression is the result", cells: []string{"const x = 20\nx + 1"}, result: "21"},
	{name: "undefined is no result", cells: []string{"undefined"}},
	{name: "a loop has no result", cells: []string{"let n = 0; for (const i of [1, 2]) n += i"}},
	{name: "const can be declared again", cells: []string{"const c = 1", "const c = 2; let c2 = c", "let c = 3; c + c2"}, result: "5"},
	{name: "a class can be declared again", cells: []string{"class A { m() { return 1 } }", "class A { m() { return 2 } }\n;(1)", "new A().m()"}, result: "2"},
	{name: "destructuring declares", cells: []string{"const {a, b: [c1 = 3, ...d], ...e} = {a: 1, b: [undefined, 2], z: 9}, [f] = [7]", "[a, c1, d, e, f]"}, result: "[ 1, 3, [ 2 ], { z: 9 }, 7 ]"},
	{name: "block-scoped names stay in their block", cells: []string{"for (const inner of [1]) {}\n{ let inner2 }", "typeof inner + typeof inner2"}, result: "undefinedundefined"},
	{name: "await works at the top level", cells: []string{"const p = await Promise.resolve(5), q = p + 1\nclass K { v = q }", "p + new K().v"}, result: "11"},
	{name: "for await works, and var in blocks persists", cells: []string{"for await (const v of [1, 2]) { var last = v }\nfor (var i = 0, j = 5; i < 3; i++);\nfor (var [key] of ['z']) ;", "[last, i, j, key]"}, result: "[ 2, 3, 5, 'z' ]"},
	{name: "functions of an async cell are global and hoisted", cells: []string{"const r1 = await twice(4)\nasync function twice(n) { return factor() * n }\nfunction factor() { return 2 }\nr1", "function factor() { return 10 }\nawait twice(4)"}, result: "40"},
	{name: "a declaration may end without a semicolon", cells: []string{"await 0\nlet w\n[1].map(x => x + 1)"}, result: "[ 2 ]"},
	{name: "a promise as the last value is awaited", cells: []string{"async function main() { console.log('in main'); return {done: true} }\nmain()"}, text: "in main\n", result: "{ done: true }"},
	{name: "output of microtasks belongs to the cell", cells: []string{"Promise.resolve().then(() => console.log('micro')); const nothing = 1"}, text: "micro\n"},
	{name: "an object literal is an object", cells: []string{"{a: 1, b: 'two'}"}, result: "{ a: 1, b: 'two' }"},
	{name: "a block is a block", cells: []string{"{ console.log('block') }"}, text: "block\n"},
	{name: "declarations in regular expressions, templates and comments are left alone", cells: []string{"const re = /const x = [`\"]/g, t = `a ${`let ${1}`} /* */`; // const y\n/* let z = 1 */ re.test('const x = `') && t"}, result: "'a let 1 /* */'"},
	{name: "import declares", cells: []string{"import fs, {readFileSync as read} from 'fs'; import * as path from 'node:path'", "read === fs.readFileSync && path.join('a', 'b')"}, result: "'a/b'"},
	{name: "files in the working directory can be imported and required", cells: []string{"fs.writeFileSync('m.mjs', 'export const v = 5; export default 6'); fs.writeFileSync('c.js', 'module.exports = {w: 7}')", "import d, {v} from './m.mjs'\nimport {w} from './c.js'\nconst later = async () => (await import('./m.mjs')).v;\n[d, v, w, await later(), require('./c').w]"}, result: "[ 6, 5, 7, 5, 7 ]"},
	{name: "a missing export is an error", cells: []string{"import {nope} from 'fs'"}, err: "SyntaxError: The requested module 'fs' does not provide an export named 'nope'"},
	{name: "a missing module is an error", cells: []string{"import x from 'not-there'"}, err: "'not-there'"},
	{name: "export declares", cells: []string{"export const ex = 4\nexport default function dd() { return 5 }\nexport { ex as foo }", "ex + dd()"}, result: "9"},
	{name: "names of Node's globals can be declared", cells: []string{"const crypto = require('crypto'); const { performance } = require('perf_hooks'); const fetch = 1, name = 2", "crypto.createHash('md5').update('a').digest('hex').length + fetch"}, result: "33"},
	{name: "createRequire and import.meta.url work", cells: []string{"import { createRequire } from 'module'; import { fileURLToPath } from 'url'\nconst require = createRequire(import.meta.url); const __filename = fileURLToPath(import.meta.url)\nif (require('path').isAbsolute(__filename)) console.log('ok')"}, text: "ok\n"},
	{name: "require.main is the cell", cells: []string{"delete globalThis.require", "require.main === module"}, result: "true"},
	{name: "values are instances of the global classes", cells: []string{"[[] instanceof Array, Buffer.from('a') instanceof Uint8Array, new Error instanceof Error]"}, result: "[ true, true, true ]"},
	{name: "console writes in order", cells: []string{"console.log('a %d', 1); console.error('b'); process.stdout.write('c\\n'); console.dir({d: 1}); console.warn('e')"}, text: "a 1\nb\nc\n{ d: 1 }\ne\n"},
	{name: "console.table writes a table", cells: []string{"let table = ''; process.stdout.write = (text) => { table += text }; console.table([{a: 1}])", "table.includes('(index)')"}, result: "true"},
	{name: "output of a child process is in order", cells: []string{"console.log('a'); require('child_process').execSync('echo b', {stdio: 'inherit'}); console.log('c')"}, text: "a\nb\nc\n"},
	{name: "an error shows the line", cells: []string{"function f() {\n  throw new TypeError('bad')\n}\nf()"}, err: "TypeError: bad", trace: []string{".js:2\n  throw new TypeError('bad')\n        ^\n", "at f (cell-", ":4:1"}, not: []string{"node:", "\x1b"}},
	{name: "an error after await shows the line", cells: []string{"await 0\nnull.x"}, err: "TypeError", trace: []string{".js:2\nnull.x\n     ^\n"}},
	{name: "an error keeps its cause and properties", cells: []string{"require('fs').readFileSync('/nope')"}, err: "Error: ENOENT", trace: []string{"code: 'ENOENT'"}},
	{name: "a syntax error shows its place", cells: []string{"let ok = 1\nlet x = ;"}, err: "SyntaxError: Unexpected token ';'", trace: []string{".js:2\nlet x = ;\n        ^\n"}},
	{name: "code that ends too early is a syntax error", cells: []string{"foo("}, err: "SyntaxError: Unexpected end of input"},
	{name: "anything can be thrown", cells: []string{"throw 'text'"}, err: "Error: 'text'", trace: []string{"Uncaught 'text'"}},
	{name: "a deep recursion has a short traceback", cells: []string{"function r() { r() }\nr()"}, err: "RangeError: Maximum call stack", trace: []string{"Maximum call stack size exceeded\n    at r"}},
	{name: "Error.prepareStackTrace may throw", cells: []string{"Error.prepareStackTrace = () => { throw 1 }; null.x"}, err: "TypeError"},
	{name: "Error.prepareStackTrace can be reset", cells: []string{"Error.prepareStackTrace = undefined"}},
	{name: "an object whose inspect fails is shown with the error", cells: []string{"({ [require('util').inspect.custom]() { throw new Error('mute') } })"}, result: "cannot be shown"},
	{name: "a proxy whose traps throw is shown", cells: []string{"new Proxy({}, { get() { throw 1 }, ownKeys() { throw 1 } })"}, result: "Proxy"},
	{name: "an uncaught error does not kill the kernel", cells: []string{"const alive = 1; setTimeout(() => { throw 1 }, 1); await new Promise(r => setTimeout(r, 20))"}, text: "Uncaught 1\n"},
	{name: "an unhandled rejection does not kill the kernel", cells: []string{"Promise.reject('no'); const alive2 = 1"}, text: "Uncaught 'no'\n"},
	{name: "process.exit ends the cell only", cells: []string{"process.exit(2)", "alive + alive2"}, result: "2"},
	{name: "process.exit with a code is an error", cells: []string{"main().then(() => process.exit(3))"}, text: "in main\n", err: "ProcessExit: process.exit(3)"},
	{name: "process.exit() without a code is no error", cells: []string{"process.exit()"}},
	{name: "timers continue after the cell", cells: []string{"let ticks = 0; const timer = setInterval(() => ticks++, 1)", "while (ticks < 3) await new Promise(r => setTimeout(r, 5)); clearInterval(timer)", "ticks >= 3"}, result: "true"},
	{name: "display() shows", cells: []string{"display(Buffer.from('89504e470d0a1a0a', 'hex')); display({'text/html': '<b>'}); display([1])"}, displays: []string{"image/png", "text/html", "text/plain"}},
	{name: "Jupyter.display is called", cells: []string{"display({ [Symbol.for('Jupyter.display')]() { return {'application/json': {a: 1}} } })"}, displays: []string{"application/json"}},
	{name: "prompt() fails with an explanation", cells: []string{"prompt('name?')"}, err: "prompt() cannot work here: there is no person"},
	{name: "readline fails with an explanation", cells: []string{"await require('readline/promises').createInterface({ input: process.stdin }).question('?')"}, err: "readline cannot ask here"},
	{name: "a replaced stdout is restored", cells: []string{"process.stdout.write = () => {}; console.log = null", "console.log('back')"}, text: "back\n"},
	{name: "Math.random looks like the original", cells: []string{"const draws = Array.from({length: 10000}, Math.random); [Math.random.name, Math.random.length, String(Math.random).includes('[native code]'), new Set(draws).size, draws.every(x => x >= 0 && x < 1)]"}, result: "[ 'random', 0, true, 10000, true ]"},
	{name: "vm contexts work", cells: []string{"const vm = require('vm'), made = vm.createContext({ a: 1 }), draw = 'Math.random()';\n[vm.runInContext('a + 1', made), vm.isContext(made), vm.runInNewContext('b', { b: 3 }, 'file.js'), new vm.Script('typeof Math.random()').runInNewContext(), vm.runInNewContext('typeof c'), vm.createContext.length]"}, result: "[ 2, true, 3, 'number', 'undefined', 0 ]"},
	{name: "vm contexts accept options", cells: []string{"vm.runInNewContext('eval(\"1\")', {}, { contextCodeGeneration: { strings: false } })"}, err: "EvalError"},
	{name: "a vm context can have its own Math", cells: []string{"vm.runInNewContext('Math.random()', { Math: { random: () => 4 } }) + vm.runInNewContext('Math', { Math: 1 })"}, result: "5"},
	{name: "each vm context has its own random values", cells: []string{"new Set([vm.createContext({}), vm.createContext({})].concat({}, {}).map((c) => vm.isContext(c) ? vm.runInContext(draw, c) : vm.runInNewContext(draw, c))).size"}, result: "4"},
	{name: "each worker has its own random values", cells: []string{"const { Worker } = require('worker_threads')\nconst drawn = await Promise.all([1, 2].map(() => new Promise((r) => new Worker('require(\"worker_threads\").parentPort.postMessage([Math.random.name, Math.random()])', { eval: true }).on('message', r))));\n[drawn[0][0], drawn[0][1] !== drawn[1][1]]"}, result: "[ 'random', true ]"},
	{name: "strict mode works", cells: []string{"'use strict'\nconst s = await 1\nfunction self() { return this }\nself() === undefined && s"}, result: "1"},
}
