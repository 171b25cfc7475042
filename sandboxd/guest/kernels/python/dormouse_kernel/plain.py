"""Runs cells without IPython. Provides display(), lines such as `!ls`, and a few magics."""

import builtins
import os
import platform
import re
import shlex
import subprocess
import sys
import textwrap
import types

from .mime import bundle

LINE = re.compile(r"^(\s*)([!%])(.*)$")
CELL_MAGIC = re.compile(r"\s*%%(\w+).*\n?")
IGNORED = ("matplotlib", "config", "autosave")


def system(command):
    """Runs command in the shell with fds 1 and 2 of the kernel. Returns its exit code, or 128 plus the signal's number."""
    shell = os.environ.get("SHELL")
    status = subprocess.call(command, shell=True, executable=shell if shell and os.path.exists(shell) else None)
    return status if status >= 0 else 128 - status


class Plain:
    name = "Python " + platform.python_version()
    hidden = ()

    def __init__(self, publish):
        self._publish = publish
        main = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        self.namespace = vars(main)
        builtins.display = self.display
        builtins._dormouse_system = self._system
        builtins._dormouse_cd = self._cd

    def run(self, cells, code):
        return cells.run(code, self._transform)

    def bundle(self, value):
        return bundle(value)

    def display(self, *values, raw=False, **_):
        """Shows values. With raw=True, each value must be a MIME bundle and is shown as it is."""
        for value in values:
            if raw:
                self._publish(value)
            elif not isinstance(value, type) and callable(getattr(value, "_ipython_display_", None)):
                value._ipython_display_()
            else:
                self._publish(bundle(value))

    def _transform(self, code):
        """Translates indented blocks and lines that start with ! or % to Python, as IPython does."""
        if code[:1].isspace():
            code = textwrap.dedent(code.lstrip("\n") if code.strip() else "")
        magic = CELL_MAGIC.match(code)
        if magic and magic[1] in ("bash", "sh"):
            return f"_dormouse_system({code[magic.end():]!r})"
        return "\n".join(_command(line) for line in code.split("\n"))

    def _system(self, command):
        self.namespace["_exit_code"] = system(command)

    def _cd(self, directory):
        os.chdir(os.path.expanduser(directory or "~"))
        print(os.getcwd())


def _command(line):
    match = LINE.match(line)
    if not match:
        return line
    indent, mark, rest = match[1], match[2], match[3].strip()
    if mark == "!":
        return f"{indent}_dormouse_system({rest!r})"
    name, _, arguments = rest.partition(" ")
    if name in IGNORED:
        return f"{indent}pass"
    if name == "cd":
        return f"{indent}_dormouse_cd({arguments.strip()!r})"
    if name == "pip":
        return f"{indent}_dormouse_system({f'{shlex.quote(sys.executable)} -m pip {arguments}'!r})"
    message = f"%{name} is a magic of IPython, which this image does not have."
    return f"{indent}raise RuntimeError({message!r})"
