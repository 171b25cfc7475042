"""SIGINT becomes KeyboardInterrupt in the user's code, and in nothing else.

A Python signal handler runs between any two bytecodes of the main thread, so it may only raise while the user's code runs
(`armed`), and not while that code is inside ours, with a lock held or a message half written (`shield`). An interrupt that
comes inside a shield is raised when it is left.
"""

import signal
import threading
import time

# Several signals within this time are one interrupt. This also makes sure that no signal hits the few instructions
# between the first signal and the end of the cell.
BURST = 0.05


class Interrupts:
    def __init__(self):
        self.armed = False
        self.cancel = None  # set while an event loop runs: cancels its task and returns True, if the loop is waiting
        self._main = threading.get_ident()
        self._shields = 0
        self._pending = False
        self._last = 0.0

    def install(self):
        """Makes SIGINT ours; again before each cell, since user code may have taken it."""
        self._last = 0.0
        if signal.getsignal(signal.SIGINT) != self._on_signal:
            signal.signal(signal.SIGINT, self._on_signal)

    def guarded(self, function, *args):
        """Calls function so that SIGINT raises in it; returns (its value, None) or (None, the exception)."""
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
        """`with interrupts:` is a shield, and costs nothing to other threads than the main one."""
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
