"""Runs cells in an image with IPython, and provides its magics, formatters and display().

cell.py runs the cell itself, as without IPython. So results, errors and interrupts do not depend on whether the image has
IPython. IPython's history, profile and colours are off, and nothing is written to $HOME.
"""

import builtins
import os
import sys

sys.modules["jedi"] = None  # only for completion, which the kernel lacks; importing jedi takes a third of the start time
try:
    import IPython
    from IPython.core import interactiveshell
    from IPython.core.displayhook import DisplayHook
    from IPython.core.displaypub import DisplayPublisher
    from IPython.core.interactiveshell import ExecutionInfo, ExecutionResult, InteractiveShell
    from IPython.core.profiledir import ProfileDir
finally:
    del sys.modules["jedi"]
from traitlets import Any
from traitlets.config import Config

from .figures import png
from .plain import system


# Values of these types have only a text form. Calling all ten formatters for one takes longer than the cell.
PLAIN = frozenset({int, float, bool, str, bytes})


class Store(dict):
    """A replacement for IPython's persistent database (%store, %alias) that keeps its values in memory only."""

    def __init__(self, root):
        super().__init__()


interactiveshell.PickleShareDB = Store


class Hook(DisplayHook):
    """IPython's display hook. It sends a value as the kernel's result."""

    def __call__(self, value=None):
        if value is not None:
            self.shell.dormouse.result(value)


class Publisher(DisplayPublisher):
    def publish(self, data, metadata=None, source=None, *, transient=None, update=False, **_):
        # %%capture replaces this publisher by its own, so this method need not support %%capture.
        self.shell.dormouse.publish(data)

    def clear_output(self, wait=False):
        pass


class Shell(InteractiveShell):
    displayhook_class = Hook
    display_pub_class = Publisher
    dormouse = Any()

    def init_ipython_dir(self, ipython_dir):
        pass

    def init_profile_dir(self, profile_dir):
        self.profile_dir = ProfileDir()  # without a location it creates no folder

    def init_virtualenv(self):
        pass

    def system(self, cmd):
        self.user_ns["_exit_code"] = system(self.var_expand(cmd, depth=1))

    def enable_matplotlib(self, gui=None):
        return "inline", "agg"  # these are always used here

    def showtraceback(self, exc_tuple=None, *_, **__):
        """Sends an exception that IPython caught in a formatter, in %run or in a cell that runs inside another cell."""
        exception = exc_tuple[1] if exc_tuple else sys.exc_info()[1]
        if exception is not None:
            self.dormouse.caught(exception)

    showsyntaxerror = showindentationerror = showtraceback


class IPythonRunner:
    name = "IPython " + IPython.__version__
    hidden = (os.path.dirname(IPython.__file__) + os.sep,)

    def __init__(self, publish, result, caught):
        self.publish, self.result, self.caught = publish, result, caught
        config = Config()
        config.HistoryManager.enabled = False
        config.HistoryManager.hist_file = ":memory:"
        config.InteractiveShell.cache_size = 0
        config.InteractiveShell.autocall = 0
        config.InteractiveShell.colors = "NoColor" if IPython.version_info < (9,) else "nocolor"
        self.shell = shell = Shell.instance(config=config, dormouse=self)
        for name in "exit", "quit", "In", "Out", "_oh", "_dh", "_ih", "_i", "_ii", "_iii":
            shell.user_ns.pop(name, None)
        shell.user_ns["_dh"] = [os.getcwd()]  # for %cd
        shell.builtin_trap.__enter__()  # never left, so that a cell inside a cell does not remove its builtins
        shell.display_trap.__enter__()
        builtins.exit = builtins.quit = sys.exit  # the trap has replaced them
        shell.display_formatter.formatters["image/png"].for_type_by_name("matplotlib.figure", "Figure", png)
        self.namespace = shell.user_ns
        shell.transform_cell("warm = 1")

    def run(self, cells, code):
        shell = self.shell
        shell.execution_count = cells.count
        info = ExecutionInfo(code, False, False, True, None)
        shell.events.trigger("pre_execute")
        shell.events.trigger("pre_run_cell", info)
        try:
            return cells.run(code, shell.transform_cell, shell.transform_ast if shell.ast_transformers else None)
        finally:
            shell.events.trigger("post_execute")
            shell.events.trigger("post_run_cell", ExecutionResult(info))

    def bundle(self, value):
        if type(value) in PLAIN:
            return {"text/plain": self.shell.display_formatter.formatters["text/plain"](value)}
        return self.shell.display_formatter.format(value)[0]
