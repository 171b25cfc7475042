"""Sends messages to the guest: one JSON object per line on fd 4.

The guest answers each `sync` and each `begun` with one byte on fd 5.

Any thread may print at any time, so one lock guards the state of the channel. A shield (see interrupts.py) is held around
the lock, so that a KeyboardInterrupt cannot leave a message half written. The lock is re-entrant because Python can run a
destructor that prints while the same thread holds the lock.
"""

import json
import os
import sys
import threading
from time import sleep

REQUESTS, MESSAGES, ACKS = 3, 4, 5

GATHER_BYTES = 8 << 10
GATHER_SECONDS = 0.03
CHUNK = 1 << 20  # characters of text in one message; each can become six bytes of JSON, and a line has at most 16 MiB
MAX_LINE = 16 << 20

# The audit events of calls that start a process. The guest must read all text printed before such a call before the
# process prints anything.
SPAWNS = frozenset({
    "subprocess.Popen", "os.system", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.spawn", "pty.spawn",
})


class Channel:
    def __init__(self, shield):
        self.id = None  # the id of the running execution
        self.forked = False  # true in a child of os.fork(), which must not write messages
        self._shield = shield
        self._lock = threading.RLock()
        self._encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
        self._source = None  # (type, id) of the gathered text
        self._parts = []
        self._size = 0
        self._flushing = False
        self._gathered = threading.Event()
        for fd in (REQUESTS, MESSAGES, ACKS):
            os.set_inheritable(fd, False)
            os.set_blocking(fd, True)

    def start(self):
        os.register_at_fork(before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._in_child)
        sys.addaudithook(self._on_audit)
        threading.Thread(target=self._flush_regularly, name="dormouse-flush", daemon=True).start()

    def text(self, kind, text):
        """Sends text that the code printed; kind is "stdout" or "stderr". Gathers small texts for up to GATHER_SECONDS."""
        with self._shield, self._lock:
            if self.forked:
                _write(1 if kind == "stdout" else 2, _utf8(text))
                return
            if self._source != (kind, self.id):
                self._flush()
                self._source = (kind, self.id)
            self._parts.append(text)
            self._size += len(text)
            if self._size >= GATHER_BYTES:
                self._flush()
            elif not self._gathered.is_set():
                self._gathered.set()

    def send(self, kind, **fields):
        """Sends the gathered text and then a message. Returns False, without sending the message, if it is too long."""
        with self._shield, self._lock:
            if self.forked:
                return True
            self._flush()
            return self._line({"type": kind, **fields})

    def sync(self):
        """Waits until the guest has read all earlier messages, so that output of a subprocess started now follows them."""
        with self._shield, self._lock:
            if self.forked or self._flushing:
                return
            self._flush()
            self._line({"type": "sync"})
            os.read(ACKS, 1)

    def flush(self):
        with self._shield, self._lock:
            self._flush()

    def begin(self, execution):
        """Begins an execution once the guest has read all earlier output, so that later output belongs to the execution."""
        with self._shield, self._lock:
            self._flush()
            self.id = execution
            self._line({"type": "begun", "id": execution})
            os.read(ACKS, 1)

    def done(self, status):
        with self._shield, self._lock:
            self.send("done", id=self.id, status=status)
            self.id = None

    def _flush(self):
        if not self._parts or self._flushing:
            return
        self._flushing = True
        try:
            (kind, execution), text = self._source, "".join(self._parts)
            self._parts, self._size = [], 0
            for start in range(0, len(text), CHUNK):
                self._line({"type": kind, "id": execution, "text": text[start:start + CHUNK]})
        finally:
            self._flushing = False

    def _line(self, message):
        # A lone surrogate becomes \udcxx, which is also how JSON would encode it.
        line = _utf8(self._encode(message))
        if len(line) >= MAX_LINE:
            return False
        _write(MESSAGES, line + b"\n")
        return True

    def _flush_regularly(self):
        while True:
            self._gathered.wait()
            sleep(GATHER_SECONDS)
            with self._lock:
                self._gathered.clear()
                self._flush()

    def _on_audit(self, event, _args):
        if event in SPAWNS:
            self.sync()

    def _before_fork(self):
        self._shield.__enter__()
        self._lock.acquire()
        if not self.forked:
            self._flush()

    def _after_fork(self):
        self._lock.release()
        self._shield.__exit__()

    def _in_child(self):
        if not self.forked:
            self.forked = True
            for fd in (REQUESTS, MESSAGES, ACKS):
                os.close(fd)
        self._after_fork()


def _utf8(text):
    return text.encode("utf-8", "backslashreplace")


def _write(fd, data):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]
