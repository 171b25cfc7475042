"""Exceptions as the guest gets them: a name, a message and a traceback, plain text, none of the frames ours."""

import os
import traceback

HOME = os.path.dirname(__file__) + os.sep
MAX_MESSAGE = 16 << 10
MAX_TRACEBACK = 64 << 10


def describe(exception, hidden=()):
    """The name, message and traceback of exception. Frames of files that start with one of hidden are left out."""
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
    """text, or its beginning and its end and how much is missing between them."""
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
    """described, and all that it was caused by or happened during."""
    seen, todo = set(), [described]
    while todo:
        each = todo.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        todo += each.__cause__, each.__context__, *(getattr(each, "exceptions", None) or ())


def _from_cell(stack):
    """stack from the outermost cell on: what stands outside of it, such as asyncio's loop, is not the user's."""
    for index, frame in enumerate(stack):
        if frame.filename.startswith("<cell "):
            return stack[index:]
    return stack


def _shorten(described):
    """Where an interrupt hit: the cell's own frames, and not what it may have interrupted in the middle of an `except`."""
    own = [frame for frame in described.stack if frame.filename.startswith("<cell ")]
    described.stack[:] = own[-3:] or described.stack[-3:]
    described.__cause__ = described.__context__ = None
