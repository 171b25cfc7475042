"""Converts values to MIME bundles, which map MIME types to strings, within the protocol's limits."""

import json
from binascii import b2a_base64

from .errors import cut
from .figures import is_figure, png

BINARY = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf"})
MAX_PLAIN = 1 << 20
MAX_VALUE = 8 << 20
MAX_BUNDLE = 12 << 20

METHODS = {
    "text/html": "_repr_html_",
    "text/markdown": "_repr_markdown_",
    "text/latex": "_repr_latex_",
    "image/svg+xml": "_repr_svg_",
    "image/png": "_repr_png_",
    "image/jpeg": "_repr_jpeg_",
    "application/pdf": "_repr_pdf_",
    "application/json": "_repr_json_",
}


def bundle(value):
    """Returns the MIME bundle of value, made by the methods that notebooks call, such as _repr_html_()."""
    data = {"text/plain": repr(value)}
    if is_figure(value):
        data["image/png"] = png(value)
        return data
    if isinstance(value, type):  # the methods of a class are for its instances
        return data
    whole = _ask(value, "_repr_mimebundle_", include=None, exclude=None)
    if whole is not None:
        data.update(whole)
        return data
    for mime, method in METHODS.items():
        answer = _ask(value, method)
        if answer is not None:
            data[mime] = answer
    return data


def _ask(value, method, **arguments):
    function = getattr(value, method, None)
    # An object that has every attribute, such as a mock, does not implement these methods.
    if not callable(function) or callable(getattr(value, "_dormouse_no_such_method_", None)):
        return None
    answer = function(**arguments)
    # Some methods return (data, metadata). The metadata is for notebooks.
    return answer[0] if isinstance(answer, tuple) and len(answer) == 2 else answer


def clean(data):
    """Returns data as the protocol requires: binary types as base64, JSON as text, and a note for each value that is too long."""
    if "image/png" in data:
        data = {mime: value for mime, value in data.items() if mime != "image/jpeg"}
    cleaned, notes, total = {}, [], 0
    for mime, value in data.items():
        text = _text(mime, value)
        if text is None:
            continue
        if mime == "text/plain":
            text = cut(text, MAX_PLAIN)
        size = len(text)
        if size > MAX_VALUE or total + size > MAX_BUNDLE:
            notes.append(f"[{mime} of {size} characters left out: too long to show. Write it to a file instead.]")
            continue
        total += size
        cleaned[mime] = text
    if notes:
        cleaned["text/plain"] = "\n".join([cleaned.get("text/plain", ""), *notes]).lstrip("\n")
    return cleaned


def _text(mime, value):
    if value is None:
        return None
    if mime in BINARY:
        if isinstance(value, str):  # already base64
            return "".join(value.split())
        return b2a_base64(bytes(value), newline=False).decode("ascii")
    if isinstance(value, str):
        return value
    if isinstance(value, (bytes, bytearray)):
        return value.decode("utf-8", "replace")
    return json.dumps(value, ensure_ascii=False, default=str)
