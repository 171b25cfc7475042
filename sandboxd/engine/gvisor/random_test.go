//go:build linux

package gvisor_test

import (
	"context"
	"net"
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/bundle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

func run(t *testing.T, c *guest.Client, lang sandbox.Language, code string) sandbox.Execution {
	t.Helper()
	seconds := 120
	got, err := c.Execute(t.Context(), sandbox.NewExecutionID(), sandbox.ExecuteRequest{Code: code, Language: lang, TimeoutSeconds: &seconds, WaitSeconds: 120})
	if err != nil || got.State != sandbox.ExecSucceeded {
		t.Fatalf("Execute = %+v, %v", got, err)
	}
	return got
}

func printed(t *testing.T, c *guest.Client, lang sandbox.Language, code string) string {
	t.Helper()
	got := run(t, c, lang, code)
	var text strings.Builder
	for _, event := range got.Events {
		text.WriteString(event.Text)
	}
	return text.String()
}

// pythonBefore uses every generator before the memory is saved, so that the saved memory contains the state of each
// generator. All sandboxes that start with this memory would draw the same values if the guest did not renew the state.
const pythonBefore = `
import multiprocessing, queue, random, secrets, sqlite3, ssl, tempfile, threading, uuid
import cryptography.hazmat.primitives.asymmetric.ed25519 as ed25519, cryptography.hazmat.primitives.asymmetric.rsa as rsa
import duckdb, numpy as np, pandas as pd, polars as pl, pyarrow.compute as pc, sympy, sympy.core.random
from scipy import stats
from sklearn.utils import check_random_state
pl.set_random_seed(42)
random.seed(42); np.random.seed(42)
rng = np.random.default_rng(42)
state = np.random.RandomState(42)
mine = random.Random(1)
frozen, frozen_rng = random.Random(2), np.random.default_rng(3)
import gc; gc.freeze()
uuid.uuid1(); uuid.uuid4(); ssl.RAND_bytes(8); random.random(); np.random.standard_normal()
ed25519.Ed25519PrivateKey.generate(); multiprocessing.current_process().authkey; tempfile.mktemp(); pc.random(1)
database = sqlite3.connect(':memory:')
def sql(text): return database.execute('select ' + text).fetchone()[0]
sql('hex(randomblob(16))')
duckdb.sql('select random()').fetchone()
asked, answered = queue.Queue(), queue.Queue()
def serve():
    own, numbers = random.Random(4), np.random.default_rng(5)
    while True:
        asked.get(); answered.put((own.random(), numbers.random(), ssl.RAND_bytes(8).hex()))
threading.Thread(target=serve, daemon=True).start()
asked.put(1); answered.get()
`

// pythonNew prints values of new generators, and of the generators that exist in every snapshot. Each line has a name
// and a value. No two sandboxes with the same saved memory may print the same line.
const pythonNew = `
import hashlib, multiprocessing, os, random, secrets, sqlite3, ssl, tempfile, threading, uuid
import numpy as np, pandas as pd, polars as pl
from scipy import stats
from sklearn.utils import check_random_state
def drawn(function):
    values = []
    thread = threading.Thread(target=lambda: values.append(function())); thread.start(); thread.join()
    return values[0]
say('random', random.random()); say('gauss', random.gauss(0, 1)); say('new Random', random.Random().random())
say('np.random', np.random.rand()); say('normal', np.random.standard_normal()); say('default_rng', np.random.default_rng().random())
say('np in a thread', drawn(np.random.rand)); say('random in a thread', drawn(random.random)); say('ssl in a thread', drawn(lambda: ssl.RAND_bytes(16).hex()))
say('pandas', pd.Series(range(10 ** 6)).sample(4).tolist()); say('scipy', stats.norm.rvs()); say('sklearn', check_random_state(None).rand())
say('uuid1', uuid.uuid1()); say('node', uuid.getnode()); say('uuid4', uuid.uuid4())
say('secrets', secrets.token_hex()); say('ssl', ssl.RAND_bytes(16).hex()); say('urandom', os.urandom(8).hex())
say('tempfile', tempfile.mktemp()); say('authkey', bytes(multiprocessing.current_process().authkey).hex())
say('sqlite', sqlite3.connect(':memory:').execute('select hex(randomblob(16)), random()').fetchone())
say('polars', pl.Series(range(1 << 40, (1 << 40) + 10_000_000)).sample(4).to_list())
import duckdb; say('duckdb', duckdb.connect().sql('select uuid(), random()').fetchone())
import cryptography.hazmat.primitives.asymmetric.ed25519 as ed25519
say('ed25519', ed25519.Ed25519PrivateKey.generate().private_bytes_raw().hex())
with multiprocessing.Pool(1) as pool: say('a pool', pool.apply(random.random))
`

// pythonOld prints values of the generators that pythonBefore has created.
const pythonOld = `
say('Random', mine.random()); say('rng', rng.random()); say('spawn', rng.spawn(1)[0].random()); say('RandomState', state.rand())
say('after gc.freeze()', frozen.random()); say('numpy after gc.freeze()', frozen_rng.random())
asked.put(1); own, numbers, openssl = answered.get()
say('Random of a thread', own); say('Generator of a thread', numbers); say('openssl of a thread', openssl)
say('randomblob', sql('hex(randomblob(16))')); say('sqlite random()', sql('random()'))
say('sympy', sympy.core.random.random())
say('rsa', rsa.generate_private_key(65537, 1024).private_numbers().p)
say('arrow', pc.random(1)[0])
`

const javascriptBefore = `
const crypto = require('crypto'), vm = require('vm'), { Worker } = require('worker_threads'), { randomUUID, randomBytes } = crypto, { random } = Math
;[Math.random(), randomUUID(), randomBytes(8), crypto.randomInt(9), globalThis.crypto.getRandomValues(new Uint8Array(8))].length
const context = vm.createContext({})
const old = new Worker(` + "`" + `
const { parentPort } = require('worker_threads'), crypto = require('crypto')
const draw = () => [Math.random(), crypto.randomUUID(), globalThis.crypto.randomUUID(), crypto.randomInt(2 ** 47), crypto.randomBytes(8).toString('hex'),
  crypto.generateKeyPairSync('ed25519').privateKey.export({ format: 'jwk' }).d]
draw()
parentPort.on('message', () => parentPort.postMessage(draw()))` + "`" + `, { eval: true })
const ask = (worker) => new Promise((done) => { worker.once('message', done); worker.postMessage(1) })
await ask(old)
await new Promise((done) => crypto.generateKeyPair('ed25519', {}, done))
old.unref()
`

const (
	pythonSay     = "def say(name, value): print(name, value)\n"
	javascriptSay = "const say = (name, value) => console.log(name, value);\n"
)

const javascriptNew = `
{
  const crypto = require('crypto'), vm = require('vm'), { Worker } = require('worker_threads'), { subtle } = globalThis.crypto
  const jwk = (pair) => pair.privateKey.export({ format: 'jwk' })
  const later = (function_, ...parameters) => new Promise((done, fail) => function_(...parameters, (error, value) => error ? fail(error) : done(value)))
  say('Math.random', Math.random())
  say('randomUUID', crypto.randomUUID()); say('webcrypto.randomUUID', globalThis.crypto.randomUUID())
  say('without a cache', crypto.randomUUID({ disableEntropyCache: true }))
  say('randomBytes', crypto.randomBytes(16).toString('hex')); say('randomBytes later', (await later(crypto.randomBytes, 16)).toString('hex'))
  say('randomInt', crypto.randomInt(2 ** 47)); say('randomFillSync', crypto.randomFillSync(Buffer.alloc(16)).toString('hex'))
  say('randomInt later', await later(crypto.randomInt, 2 ** 47)); say('randomFill', (await later(crypto.randomFill, Buffer.alloc(16))).toString('hex'))
  say('getRandomValues', Buffer.from(globalThis.crypto.getRandomValues(new Uint8Array(16))).toString('hex'))
  for (const type of ['ed25519', 'x25519', 'ed448', 'x448']) say(type, jwk(crypto.generateKeyPairSync(type)).d)
  say('ec', jwk(crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' })).d); say('rsa', jwk(crypto.generateKeyPairSync('rsa', { modulusLength: 1024 })).p)
  const pair = await new Promise((done) => crypto.generateKeyPair('ed25519', {}, (error, publicKey, privateKey) => done({ publicKey, privateKey })))
  say('ed25519 later', jwk(pair).d)
  say('hmac', crypto.generateKeySync('hmac', { length: 128 }).export().toString('hex')); say('aes later', (await later(crypto.generateKey, 'aes', { length: 128 })).export().toString('hex'))
  const ecdh = crypto.createECDH('secp256k1'); ecdh.generateKeys(); say('ECDH', ecdh.getPrivateKey('hex'))
  const dh = crypto.getDiffieHellman('modp1'); dh.generateKeys(); say('DiffieHellman', dh.getPrivateKey('hex'))
  say('prime', crypto.generatePrimeSync(128, { bigint: true })); say('prime later', await later(crypto.generatePrime, 128, { bigint: true }))
  const { privateKey, publicKey } = crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' })
  say('oaep', crypto.publicEncrypt(crypto.generateKeyPairSync('rsa', { modulusLength: 1024 }).publicKey, Buffer.from('a')).toString('hex'))
  say('ecdsa', crypto.sign('sha256', Buffer.from('a'), privateKey).toString('hex'))
  say('subtle aes', Buffer.from(await subtle.exportKey('raw', await subtle.generateKey({ name: 'AES-GCM', length: 128 }, true, ['encrypt']))).toString('hex'))
  say('subtle ecdsa', (await subtle.exportKey('jwk', (await subtle.generateKey({ name: 'ECDSA', namedCurve: 'P-256' }, true, ['sign'])).privateKey)).d)
  say('a new vm context', vm.runInNewContext('Math.random()'))
  const made = new Worker('const crypto = require("crypto"); require("worker_threads").parentPort.postMessage([Math.random(), crypto.randomUUID(), crypto.randomInt(2 ** 47), crypto.randomBytes(8).toString("hex"), crypto.generateKeyPairSync("ed25519").privateKey.export({ format: "jwk" }).d])', { eval: true })
  for (const [i, value] of Object.entries(await new Promise((done) => made.once('message', done)))) say('new worker ' + i, value)
}
`

const javascriptOld = `
say('kept random', random()); say('kept randomUUID', randomUUID()); say('kept randomBytes', randomBytes(16).toString('hex'))
for (const [i, value] of Object.entries(await ask(old))) say('old worker ' + i, value)
`

// TestSandboxesWithTheSameMemoryShareNoRandomState checks that sandboxes that start with the same memory draw no equal
// random values after a ReportRestore. The memory is that of a snapshot, of a sandbox that is forked after its code has used
// every generator, or of a checkpoint that is restored twice.
func TestSandboxesWithTheSameMemoryShareNoRandomState(t *testing.T) {
	image := anyImage(t)
	e := open(t, tempDir(t), bundle.Bundle{})
	s := spec(image)
	s.Limits.MemoryBytes = 2048 * sandbox.MiB
	client := func(id sandbox.ID) *guest.Client {
		c := guest.NewClient(func(ctx context.Context) (net.Conn, error) { return e.Dial(ctx, id) })
		t.Cleanup(c.Close)
		return c
	}
	reportRestore := func(t *testing.T, id sandbox.ID, restore guest.Restore) *guest.Client {
		t.Helper()
		c := client(id)
		if err := c.ReportRestore(t.Context(), restore); err != nil {
			t.Fatalf("ReportRestore(%+v): %v", restore, err)
		}
		return c
	}
	// complains fails the test unless the first execution after a ReportRestore reports a warning that contains the text
	// want. The warning is about generators that can't be renewed. If want is empty, the execution must report no
	// warning.
	complains := func(t *testing.T, c *guest.Client, lang sandbox.Language, want string) {
		t.Helper()
		if got := run(t, c, lang, "1").Interlude; want == "" && got != nil || want != "" && (got == nil || !strings.Contains(got.LateText, want)) {
			t.Errorf("the first execution has the interlude %+v, want %q in its late text", got, want)
		}
	}
	t.Run("snapshot", func(t *testing.T) {
		made := s
		made.ID = sandbox.NewID()
		if err := e.Snapshot(t.Context(), made, func(ctx context.Context) error {
			c := client(made.ID)
			defer c.Close()
			for _, lang := range []sandbox.Language{sandbox.Python, sandbox.JavaScript} {
				if err := c.Prepare(ctx, lang); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatalf("Snapshot: %v", err)
		}
		drawnValues := newDrawnValues(t)
		for range 2 {
			sibling := s
			sibling.ID = sandbox.NewID()
			if started, err := e.Start(t.Context(), sibling); !started || err != nil {
				t.Fatalf("Start = %t, %v", started, err)
			}
			removeLater(t, e, sibling.ID)
			c := reportRestore(t, sibling.ID, guest.Restore{Forked: true})
			complains(t, c, sandbox.Python, "")
			complains(t, c, sandbox.JavaScript, "")
			drawnValues.add(t, printed(t, c, sandbox.Python, pythonSay+pythonNew)+printed(t, c, sandbox.JavaScript, javascriptSay+javascriptNew))
			c.Close()
			if err := e.Remove(t.Context(), sibling.ID); err != nil {
				t.Fatal(err)
			}
		}
	})
	s.ID = sandbox.NewID()
	create(t, e, s)
	draw := func(t *testing.T, c *guest.Client) string {
		t.Helper()
		defer c.Close()
		// Print the values of the old generators first, because creating a new generator may change the state of the
		// old ones.
		return printed(t, c, sandbox.Python, pythonSay+pythonOld+pythonNew) + printed(t, c, sandbox.JavaScript, javascriptSay+javascriptOld+javascriptNew)
	}
	original := client(s.ID)
	printed(t, original, sandbox.Python, pythonBefore)
	printed(t, original, sandbox.JavaScript, javascriptBefore)
	original.Close()
	t.Run("fork", func(t *testing.T) {
		drawnValues := newDrawnValues(t)
		for range 2 {
			id := sandbox.NewID()
			if err := e.Fork(t.Context(), s.ID, id); err != nil {
				t.Fatalf("Fork: %v", err)
			}
			removeLater(t, e, id)
			c := reportRestore(t, id, guest.Restore{Forked: true})
			complains(t, c, sandbox.Python, "DuckDB connections")
			complains(t, c, sandbox.JavaScript, "vm contexts")
			drawnValues.add(t, draw(t, c))
			if err := e.Remove(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("checkpoint", func(t *testing.T) {
		if err := e.Checkpoint(t.Context(), s.ID); err != nil {
			t.Fatalf("Checkpoint: %v", err)
		}
		drawnValues := newDrawnValues(t)
		drawnValues.add(t, draw(t, client(s.ID)))
		for epoch := range 2 { // restore the same checkpoint twice, after a kill each time
			kill(t, e, s.ID)
			asOf := onlyContainer(t, e).AsOf
			if err := e.Resume(t.Context(), s.ID); err != nil {
				t.Fatalf("Resume: %v", err)
			}
			drawnValues.add(t, draw(t, reportRestore(t, s.ID, guest.Restore{AsOfUnix: asOf.Unix(), EpochAbove: epoch + 1})))
		}
	})
}

// drawnValues collects the random values that sandboxes with the same saved memory have printed.
type drawnValues struct {
	seen  map[string]int
	count int
}

func newDrawnValues(t *testing.T) *drawnValues { return &drawnValues{seen: map[string]int{}} }

// add fails the test for each line of text that an earlier sandbox has printed as well. It also fails the test if text
// has fewer than 59 lines.
func (w *drawnValues) add(t *testing.T, text string) {
	t.Helper()
	w.count++
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) < 59 {
		t.Errorf("sandbox %d printed %d lines, want at least 59:\n%s", w.count, len(lines), text)
	}
	for _, line := range lines {
		if other, ok := w.seen[line]; ok {
			t.Errorf("sandboxes %d and %d have the same: %s", other, w.count, line)
		}
		w.seen[line] = w.count
	}
}
