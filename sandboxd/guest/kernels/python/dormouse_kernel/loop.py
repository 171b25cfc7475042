"""Reads requests, runs cells and reports how they ended."""

import faulthandler
import importlib.util
import io
import json
import os
import platform
import sys
import traceback
import warnings

from . import figures, imports, randomness
from .cell import Cells
from .channel import REQUESTS, Channel
from .errors import cut, describe
from .interrupts import Interrupts
from .mime import clean
from .streams import Stdio


class Kernel:
    def __init__(self):
        self.interrupts = Interrupts()
        self.interrupts.install()
        self.channel = Channel(self.interrupts)
        self.stdio = Stdio(self.channel)
        self.failed = False
        figures.prepare(self.display)
        self.runner = self._runner()
        self.namespace = self.runner.namespace
        self.cells = Cells(self.namespace, self.interrupts)

    def _runner(self):
        if importlib.util.find_spec("IPython"):
            try:
                from .ipython import IPythonRunner

                return IPythonRunner(self.display, self.result, self.error)
            except Exception as exception:  # an incomplete installation or an unsupported version
                print(f"IPython can't be loaded, so cells run without it: {exception!r}", file=sys.__stderr__)
        from .plain import Plain

        return Plain(self.display)

    def start(self):
        self.channel.start()
        self.restore()
        sys.argv = [""]
        sys.meta_path.insert(0, imports.Hooks({
            "matplotlib.backend_bases": figures.on_import,
            "pandas": imports.widen_pandas,
            "getpass": imports.refuse_getpass,
            "multiprocessing.context": imports.keep_fork,
        }))
        # Python warns when a process with several threads forks. Here the fork is safe: the kernel's second thread, which
        # sends the printed text, holds no lock during a fork.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        faulthandler.enable(file=2, all_threads=False)  # prints where C code crashed; the guest removes the kernel's frames
        randomness.freeze()
        self.channel.send("ready", language="python", version=platform.python_version(), runner=self.runner.name)
        del sys.path[0]  # the folder of this program
        _, exception = self.interrupts.guarded(imports.add_user_site)
        if exception:
            print("".join(traceback.format_exception(exception)), file=sys.stderr, end="")
        sys.path.insert(0, "")

    def restore(self):
        """Restores the state that the user's code shares with the kernel and may have changed."""
        self.interrupts.install()
        self.stdio.restore()
        sys.displayhook = self.result
        self.namespace["__builtins__"] = sys.modules["builtins"]
        self.namespace["__name__"] = "__main__"
        self.namespace.pop("__warningregistry__", None)  # so that a warning is shown again in another cell

    def execute(self, execution, code):
        self.restore()
        self.failed = False
        self.cells.count += 1
        self.channel.begin(execution)
        guarded = self.interrupts.guarded
        _, exception = guarded(self._run, code)
        if isinstance(exception, KeyboardInterrupt):
            guarded(figures.close_all)
        else:
            _, in_figure = guarded(figures.show_all)
            exception = exception or in_figure
        status = self._status(exception)
        if self.channel.forked:  # a child of os.fork() that has continued to the end of the cell
            os._exit(1 if status != "ok" else 0)
        self.channel.done(status)

    def renew(self):
        """Gives new random state to this process, whose memory is a copy, and sends `renewed`."""
        complaints = "".join(f"{complaint}\n" for complaint in randomness.renew())
        if complaints:
            self.channel.text("stderr", complaints)
        self.channel.send("renewed", text=complaints)

    def warm(self):
        """Imports common modules before this process is copied, so that the copies have them, and sends `warm`."""
        imports.ahead()
        randomness.freeze()
        self.channel.send("warm")

    def _run(self, code):
        value = self.runner.run(self.cells, code)
        if value is not None:
            self.result(value)

    def _status(self, exception):
        if exception is None or isinstance(exception, SystemExit) and exception.code in (None, 0):
            return "error" if self.failed else "ok"
        self.error(exception)
        return "interrupted" if isinstance(exception, KeyboardInterrupt) else "error"

    def error(self, exception):
        """Sends exception as the cell's error."""
        self.failed = True
        if self.interrupts.armed:  # IPython has caught the exception, and the cell continues
            described = describe(exception, self.runner.hidden)
        else:
            described, _ = self.interrupts.guarded(describe, exception, self.runner.hidden)
        name, message, traceback = described or (type(exception).__name__, "", type(exception).__name__)
        self.channel.send("error", id=self.channel.id, name=name, message=message, traceback=traceback)

    def result(self, value):
        """Sends value as the cell's result and stores it in `_`; does nothing if value is None."""
        if value is None:
            return
        hook = getattr(value, "_ipython_display_", None)
        if callable(hook) and not isinstance(value, type):
            hook()
        else:
            self._send_bundle("result", self.runner.bundle(value))
        self.namespace["_"] = value

    def display(self, data):
        self._send_bundle("display", data)

    def _send_bundle(self, kind, data):
        data = clean(data)
        if data and not self.channel.send(kind, id=self.channel.id, data=data):
            short = {"text/plain": cut(data.get("text/plain", ""), 64 << 10)}
            self.channel.send(kind, id=self.channel.id, data=short)


def main():
    kernel = Kernel()
    kernel.start()
    with io.open(REQUESTS, "rb", closefd=False) as requests:
        for line in requests:
            request = json.loads(line)
            if request["type"] == "renew":
                kernel.renew()
            elif request["type"] == "warm":
                kernel.warm()
            else:
                kernel.execute(request["id"], request["code"])
    os._exit(0)
