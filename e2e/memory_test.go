//go:build unix

package e2e_test

import (
	"strings"
	"testing"
)

// dataStack is the code of an ordinary data analysis. It uses about 700 MiB of memory and reserves much more address space.
const dataStack = `
import numpy as np, pandas as pd, scipy.stats, sklearn, matplotlib.pyplot as plt, polars as pl, duckdb, time
from concurrent.futures import ThreadPoolExecutor
from sklearn.ensemble import RandomForestClassifier
frame = pl.DataFrame({"k": np.arange(10_000) % 7, "v": np.random.rand(10_000)})
groups = frame.group_by("k").agg(pl.col("v").mean())
total = duckdb.sql("select sum(i) from range(1000000) t(i)").fetchone()[0]
X, y = np.random.rand(10_000, 20), np.random.randint(0, 2, 10_000)
model = RandomForestClassifier(n_jobs=-1).fit(X, y)
with ThreadPoolExecutor(100) as pool:
    slept = sum(pool.map(lambda _: time.sleep(.5) or 1, range(100)))
print(len(groups), total, model.score(X, y) > .9, slept)
`

// TestDataStackFits checks that the memory limit counts used memory, not reserved address space: an ordinary data analysis
// runs in a sandbox with the default memory limit.
func TestDataStackFits(t *testing.T) {
	t.Parallel()
	for _, p := range platforms(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := newHome(t, p.env...).connect(t)
			id := s.create(args{})
			s.exec(args{"sandbox_id": id, "code": dataStack, "wait_seconds": 120}, "7 499999500000 True 100")
		})
	}
}

// TestMemoryLimitEndsOnlyTheKernel checks that code that exceeds the memory limit of its sandbox can end its kernel, but not
// the sandbox. The answer must name the memory limit and the parameter memory_mb.
func TestMemoryLimitEndsOnlyTheKernel(t *testing.T) {
	hogs := []struct {
		name, language, code string
		keeps                bool // the kernel must survive and keep its variables; otherwise it must lose them
	}{
		{"a single allocation above the limit", "python", "b = bytearray(8 * 2**30)", true},
		{"an array of 8 GiB", "python", "import numpy as np; b = np.ones(2**30)", true},
		{"fast allocations", "python", "b = []\nwhile True: b.append(b'x' * (50 << 20))", false},
		{"an array that is larger than the limit", "python", "import numpy as np; b = []\nfor _ in range(4): b.append(np.ones(2**25))", false},
		{"processes that leave the session", "python", `
import os, time
for _ in range(8):
    if os.fork() == 0:
        os.setsid()
        hoard = []
        while True: hoard.append(b'x' * (10 << 20))
time.sleep(60)`, false},
		{"shared memory, touched by threads", "python", `
import mmap, threading
def hoard():
    while True:
        m = mmap.mmap(-1, 64 << 20)
        kept.append(m)
        for i in range(0, 64 << 20, 1 << 20): m[i:i + (1 << 20)] = b'x' * (1 << 20)
kept = []
threads = [threading.Thread(target=hoard) for _ in range(4)]
for t in threads: t.start()
for t in threads: t.join()`, false},
		{"files until the disks are full, then memory", "python", `
for name in ('/workspace/full', '/tmp/full', '/dev/shm/full'):
    try:
        with open(name, 'wb') as f:
            while True: f.write(b'x' * (1 << 20))
    except OSError: pass
b = []
while True: b.append(b'x' * (1 << 20))`, false},
		{"JavaScript buffers", "javascript", "const b = []; while (true) b.push(Buffer.alloc(50 << 20, 1))", false},
		{"objects on the JavaScript heap", "javascript", "const b = []; while (true) b.push(new Array(100000).fill(0).map(() => ({})))", false},
	}
	for _, p := range platforms(t) {
		t.Run(p.name, func(t *testing.T) {
			s := newHome(t, p.env...).connect(t)
			id := s.create(args{"memory_mb": 512})
			for _, hog := range hogs {
				t.Run(hog.name, func(t *testing.T) {
					s := s.with(t)
					s.exec(args{"sandbox_id": id, "language": hog.language, "code": "kept_variable = 987654321"})
					s.exec(args{"sandbox_id": id, "language": hog.language, "code": hog.code, "wait_seconds": 120}, "of its memory limit of 512 MiB", "memory_mb")
					after := s.exec(args{"sandbox_id": id, "language": hog.language, "code": "kept_variable"}).Text
					if kept := strings.Contains(after, "987654321"); kept != hog.keeps {
						t.Errorf("variables kept = %t, want %t:\n%s", kept, hog.keeps, after)
					}
					if strings.Contains(hog.name, "files") {
						s.run(id, "import os\nfor name in ('/workspace/full', '/tmp/full', '/dev/shm/full'): os.remove(name)\nprint('removed')", "removed")
					}
				})
			}
		})
	}
}
