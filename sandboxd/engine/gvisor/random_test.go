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

func printed(t *testing.T, c *guest.Client, lang sandbox.Language, code string) string {
	t.Helper()
	seconds := 120
	got, err := c.Execute(t.Context(), sandbox.NewExecutionID(), sandbox.ExecuteRequest{Code: code, Language: lang, TimeoutSeconds: &seconds, WaitSeconds: 120})
	if err != nil || got.State != sandbox.ExecSucceeded {
		t.Fatalf("Execute = %+v, %v", got, err)
	}
	var text strings.Builder
	for _, event := range got.Events {
		text.WriteString(event.Text)
	}
	return text.String()
}

const pythonBefore = `
import random, secrets, ssl, uuid
import numpy as np
import polars as pl
pl.set_random_seed(42)
random.seed(42); np.random.seed(42)
rng = np.random.default_rng(42)
mine = random.Random(1)
uuid.uuid1(); uuid.uuid4(); ssl.RAND_bytes(8); random.random(); np.random.standard_normal()
`

// Each line has a name and a value that must differ in each copy.
const pythonAfter = `
print('random', random.random()); print('Random', mine.random()); print('gauss', random.gauss(0, 1))
print('np.random', np.random.rand()); print('normal', np.random.standard_normal()); print('default_rng', rng.random())
print('uuid1', uuid.uuid1()); print('node', uuid.getnode()); print('uuid4', uuid.uuid4())
print('secrets', secrets.token_hex()); print('ssl', ssl.RAND_bytes(16).hex())
from sklearn.utils import check_random_state
print('sklearn', check_random_state(None).rand())
print('polars', pl.Series(range(1 << 40, (1 << 40) + 10_000_000)).sample(1)[0])
import tempfile; print('tempfile', tempfile.mktemp())
`

const javascriptBefore = `
const crypto = require('crypto'), { randomUUID, randomBytes } = crypto, { random } = Math
;[Math.random(), randomUUID(), randomBytes(8), crypto.randomInt(9), globalThis.crypto.getRandomValues(new Uint8Array(8))].length
`

const javascriptAfter = `
const say = (name, value) => console.log(name, value)
say('Math.random', Math.random()); say('random', random())
say('randomUUID', crypto.randomUUID()); say('kept randomUUID', randomUUID()); say('webcrypto.randomUUID', globalThis.crypto.randomUUID())
say('randomBytes', crypto.randomBytes(16).toString('hex')); say('kept randomBytes', randomBytes(16).toString('hex'))
say('randomInt', crypto.randomInt(2 ** 47)); say('randomFillSync', crypto.randomFillSync(Buffer.alloc(16)).toString('hex'))
say('getRandomValues', Buffer.from(globalThis.crypto.getRandomValues(new Uint8Array(16))).toString('hex'))
`

// Two copies of a sandbox and their original have no random value in common, once the copies were told.
func TestCopiesShareNoRandomState(t *testing.T) {
	image := anyImage(t)
	e := open(t, tempDir(t), bundle.Bundle{})
	s := spec(image)
	create(t, e, s)
	client := func(id sandbox.ID) *guest.Client {
		c := guest.NewClient(func(ctx context.Context) (net.Conn, error) { return e.Dial(ctx, id) })
		t.Cleanup(c.Close)
		return c
	}
	original := client(s.ID)
	printed(t, original, sandbox.Python, pythonBefore)
	printed(t, original, sandbox.JavaScript, javascriptBefore)
	original.Close()
	all := []*guest.Client{client(s.ID)}
	for range 2 {
		id := sandbox.NewID()
		if err := e.Fork(t.Context(), s.ID, id); err != nil {
			t.Fatalf("Fork: %v", err)
		}
		removeLater(t, e, id)
		copied := client(id)
		if err := copied.Awaken(t.Context(), guest.Awakening{Copy: true}); err != nil {
			t.Fatalf("Awaken: %v", err)
		}
		all = append(all, copied)
	}
	seen := map[string]int{}
	for i, c := range all {
		text := printed(t, c, sandbox.Python, pythonAfter) + printed(t, c, sandbox.JavaScript, javascriptAfter)
		lines := strings.Split(strings.TrimSpace(text), "\n")
		if len(lines) != 24 {
			t.Errorf("%d lines: %s", len(lines), text)
		}
		for _, line := range lines {
			if other, ok := seen[line]; ok {
				t.Errorf("%q came from %d and %d", line, other, i)
			}
			seen[line] = i
		}
	}
}
