"""Formats exceptions for the guest: a name, a message and a traceback in plain text, without the kernel's own frames."""

import os
import traceback

HOME = os.path.dirname(__file__) + os.sep
MAX_MESSAGE = 16 << 10
MAX_TRACEBACK = 64 << 10


def describe(exception, hidden=()):
    """Returns the name, message and traceback of exception, without frames of files whose paths start with one of hidden."""
    kind = type(exception)
    name = kind.__name__
    if isinstance(exception, SystemExit):
        message = str(exception.code)
        return name, message, f"{name}: {message}"
    message = "" if isinstance(exception, KeyboardInterrupt) else _text(exception)
    try:
        described = traceback.TracebackException(kind, exception, exception.__traceback__)
        hide = (HOME, "<frozen importlib", *hidden)
        for each in _chain(described):
            each.stack[:] = [frame for frame in _from_cell(each.stack) if not frame.filename.startswith(hide)]
        if isinstance(exception, KeyboardInterrupt):
            _shorten(described)
        # A syntax error in the cell has no frames, so its text must not have the heading for frames.
        lines = described.format() if described.stack or described.__cause__ or described.__context__ \
            else described.format_exception_only()
        text = "".join(lines)
    except Exception:
        text = f"{name}: {message}"
    return name, cut(message, MAX_MESSAGE), cut(text.rstrip("\n"), MAX_TRACEBACK)


def cut(text, limit):
    """Returns text. If it is longer than limit, replaces the middle by a note that says how many characters are left out."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n… [{len(text) - 2 * half} characters left out] …\n{text[-half:]}"


def _text(exception):
    try:
        return str(exception)
    except BaseException:
        return "<exception str() failed>"


def _chain(described):
    """Yields described and, recursively, the exceptions linked to it: causes, contexts and members of exception groups."""
    seen, todo = set(), [described]
    while todo:
        each = todo.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        todo += each.__cause__, each.__context__, *(getattr(each, "exceptions", None) or ())


def _from_cell(stack):
    """Returns stack from the first frame of a cell on. The frames before it, such as those of asyncio, are not user code."""
    for index, frame in enumerate(stack):
        if frame.filename.startswith("<cell "):
            return stack[index:]
    return stack


def _shorten(described):
    """Keeps the last three frames, of the cell if it has any, and drops linked exceptions, which did not cause the interrupt."""
    own = [frame for frame in described.stack if frame.filename.startswith("<cell ")]
    described.stack[:] = own[-3:] or described.stack[-3:]
    described.__cause__ = described.__context__ = None
