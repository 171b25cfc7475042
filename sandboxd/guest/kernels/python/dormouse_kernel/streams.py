"""The sys.stdout, sys.stderr and sys.stdin of the user's code, which the kernel restores before each cell."""

import builtins
import codecs
import fcntl
import io
import os
import sys

REFUSAL = (
    "{} cannot work here: there is no person at the keyboard to answer. "
    "Put the value into the code instead, or write it to a file first."
)


class Stream(io.TextIOBase):
    """Sends the text written to it to the guest as messages. close() does nothing, because later cells use the same stream."""

    encoding = "utf-8"
    errors = "backslashreplace"
    newlines = None
    line_buffering = True
    write_through = False
    mode = "w"

    def __init__(self, name, fd, channel):
        self.name = f"<{name}>"
        self.buffer = Bytes(self)
        self._kind = name
        self._fd = fd
        self._channel = channel

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if text:
            self._channel.text(self._kind, text)
        return len(text)

    def flush(self):
        """Sends the gathered text, so that it is not lost if the process ends without cleanup (os._exit, a crash)."""
        self._channel.flush()

    def fileno(self):
        return self._fd

    def isatty(self):
        return False

    def writable(self):
        return True

    def reconfigure(self, **_):
        pass

    def detach(self):
        return self.buffer

    def close(self):
        pass


class Bytes(io.BufferedIOBase):
    """The `buffer` of a Stream. Decodes UTF-8, also when a character is split between two writes."""

    mode = "wb"

    def __init__(self, text):
        self.name = text.name
        self._text = text
        self._decode = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode

    @property
    def raw(self):
        return self

    def write(self, data):
        data = bytes(data)
        self._text.write(self._decode(data))
        return len(data)

    def fileno(self):
        return self._text.fileno()

    def writable(self):
        return True

    def flush(self):
        self._text.flush()

    def close(self):
        pass


class Stdio:
    """Restores fds 0 to 2, sys.std*, input() and the builtins, which a cell may have replaced, closed or deleted."""

    def __init__(self, channel):
        self._stdout = Stream("stdout", 1, channel)
        self._stderr = Stream("stderr", 2, channel)
        self._stdin = None
        self._fds = {fd: _spare(fd) for fd in (0, 1, 2)}
        self._builtins = dict(vars(builtins), input=refuse_input)

    def restore(self):
        for fd, (spare, identity) in self._fds.items():
            if _identity(fd) != identity:
                os.dup2(spare, fd)
        for name, stream in ("stdout", self._stdout), ("stderr", self._stderr):
            replaced = getattr(sys, name, stream)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
            if replaced is not stream:
                _flush(replaced)
        if self._stdin is None or self._stdin.closed:
            self._stdin = open(0, encoding="utf-8", errors="replace", closefd=False)
        sys.stdin = sys.__stdin__ = self._stdin
        builtins.input = refuse_input
        if len(vars(builtins)) < len(self._builtins):
            for name, value in self._builtins.items():
                vars(builtins).setdefault(name, value)


def refuse_input(prompt="", /):
    raise RuntimeError(REFUSAL.format("input()"))


def refuse_getpass(prompt="Password: ", stream=None):
    raise RuntimeError(REFUSAL.format("getpass()"))


def _spare(fd):
    spare = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
    return spare, _identity(spare)


def _identity(fd):
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _flush(stream):
    try:
        stream.flush()
    except Exception:
        pass
