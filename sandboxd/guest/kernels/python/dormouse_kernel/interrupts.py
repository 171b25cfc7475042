"""Turns SIGINT into a KeyboardInterrupt in the user's code, and never in the kernel's own code.

A Python signal handler can run between any two bytecodes of the main thread. The handler therefore raises only while the
user's code runs (`armed`). It does not raise while that code is inside a kernel function that holds a lock or writes a
message. Such functions use a shield, `with interrupts:`. If SIGINT arrives inside a shield, KeyboardInterrupt is raised
when the shield ends.
"""

import signal
import threading
import time

# Signals that arrive within this many seconds of an interrupt are ignored. So a repeated signal cannot raise again in the
# few instructions between the first KeyboardInterrupt and the end of the cell.
BURST = 0.05


class Interrupts:
    def __init__(self):
        self.armed = False
        self.cancel = None  # set while an event loop runs; if the loop is waiting, cancels its task and returns True
        self._main = threading.get_ident()
        self._shields = 0
        self._pending = False
        self._last = 0.0

    def install(self):
        """Installs the SIGINT handler. Called before each cell, because user code may have replaced the handler."""
        self._last = 0.0
        if signal.getsignal(signal.SIGINT) != self._on_signal:
            signal.signal(signal.SIGINT, self._on_signal)

    def guarded(self, function, *args):
        """Calls function, in which SIGINT raises KeyboardInterrupt. Returns (its value, None) or (None, the exception)."""
        self._pending = False
        try:
            try:
                self.armed = True
                return function(*args), None
            finally:
                self.armed = False
        except BaseException as exception:
            self.armed = False
            return None, exception

    def __enter__(self):
        """Begins a shield, inside which SIGINT raises nothing. Does nothing in threads other than the main thread."""
        if threading.get_ident() == self._main:
            self._shields += 1

    def __exit__(self, *_):
        if threading.get_ident() == self._main:
            self._shields -= 1
            if self._pending and not self._shields:
                self._pending = False
                self._interrupt()

    def _on_signal(self, _signal, _frame):
        if not self.armed:
            return
        if self._shields:
            self._pending = True
        else:
            self._interrupt()

    def _interrupt(self):
        now = time.monotonic()
        if not self.armed or now - self._last < BURST:
            return
        self._last = now
        if self.cancel is None or not self.cancel():
            raise KeyboardInterrupt
