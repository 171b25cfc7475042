"""Adjusts modules once the user has imported them, and imports common modules before a snapshot is made."""

import contextlib
import importlib
import io
import site
import sys
import warnings

# Modules that much code imports and that take long to import.
_AHEAD = "numpy", "pandas", "matplotlib.pyplot"


class Hooks:
    """An import finder that delegates to the other finders and calls the function given for a module after its import."""

    def __init__(self, functions):
        self._functions = dict(functions)
        for name in [name for name in functions if name in sys.modules]:
            self._call(name, sys.modules[name])

    def find_spec(self, name, path=None, target=None):
        if name not in self._functions:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                self._wrap(name, spec.loader)
                return spec
        return None

    def _wrap(self, name, loader):
        run = getattr(loader, "exec_module", None)
        if run is None:
            return

        def run_and_call(module):
            run(module)
            self._call(name, module)

        loader.exec_module = run_and_call

    def _call(self, name, module):
        function = self._functions.pop(name, None)
        if function:
            try:
                function(module)
            except Exception:  # an unknown version: the module itself works
                pass


def ahead():
    """Imports common modules without binding names. Ignores errors, because the user's own import reports them."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        for name in _AHEAD:
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def add_user_site():
    """Adds the user's site packages, .pth files and usercustomize, before the system's, as Python does without -s."""
    folder = site.getusersitepackages()
    before = list(sys.path)
    site.ENABLE_USER_SITE = True
    site.addusersitepackages(None)
    added = [path for path in sys.path if path not in before]
    systems = site.getsitepackages()
    at = next((i for i, path in enumerate(before) if path in systems), len(before))
    sys.path[:] = before[:at] + added + before[at:]
    if folder in sys.path:
        site.execusercustomize()


def widen_pandas(pandas):
    """Lets pandas print larger frames, because a model reads them, not a person on a terminal of 80 columns."""
    pandas.set_option("display.width", 200)
    pandas.set_option("display.max_columns", 50)
    pandas.set_option("display.max_rows", 60)


def refuse_getpass(getpass):
    from .streams import refuse_getpass as refuse

    getpass.getpass = getpass.unix_getpass = getpass.fallback_getpass = refuse


def keep_fork(context):
    """Keeps fork as multiprocessing's default in Python 3.14: other start methods cannot import functions defined in a cell."""
    default = context._default_context
    if default._default_context.get_start_method() == "forkserver":
        default._default_context = context._concrete_contexts["fork"]
