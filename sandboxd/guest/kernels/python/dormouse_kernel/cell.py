"""Compiles and runs cells. The value of a cell's last expression is its result, and `await` works at the top level.

A cell without a top-level await runs outside of any event loop, so that asyncio.run() works in it. A cell with a top-level
await runs as a task on one event loop, which lives as long as the kernel. asyncio.get_event_loop() returns this loop. When
no loop runs, asyncio.create_task() creates the task on this loop, and the task continues while later cells await.
"""

import __future__

import ast
import asyncio
import collections
import functools
import inspect
import io
import linecache
import threading
import tokenize

NAME = "<cell {}>"
KEPT_SOURCES = 2000  # number of cells whose source lines tracebacks and inspect.getsource can still show

_FUTURE = 0
for _name in __future__.all_feature_names:
    _FUTURE |= getattr(__future__, _name).compiler_flag


class Cells:
    def __init__(self, namespace, interrupts):
        self.count = 0
        self.namespace = namespace
        self._interrupts = interrupts
        self._future = 0  # `from __future__ import …` applies to all later cells, as at a prompt
        self._sources = collections.deque()
        self._loop = None
        self._main = threading.get_ident()
        asyncio.create_task = asyncio.tasks.create_task = self._create_task(asyncio.create_task)

    def run(self, source, transform, transform_ast=None):
        """Runs source and returns the value of its last expression, or None if it has none or ends with a semicolon.

        If source is not valid Python (`!ls`, `%time`, an indented block), run calls transform and runs the text that it
        returns. transform_ast, if given, may change the syntax tree before it is compiled.
        """
        name = NAME.format(self.count)
        flags = self._future | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        try:
            tree = compile(source, name, "exec", flags | ast.PyCF_ONLY_AST, dont_inherit=True)
        except SyntaxError:
            transformed = transform(source)
            if transformed in (source, source + "\n"):
                raise
            source = transformed
            tree = compile(source, name, "exec", flags | ast.PyCF_ONLY_AST, dont_inherit=True)
        self._remember(name, source)
        if transform_ast:
            tree = transform_ast(tree)
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            last = ast.Expression(tree.body.pop().value)
        parts = []
        if tree.body:
            code = compile(tree, name, "exec", flags, dont_inherit=True)
            self._future |= code.co_flags & _FUTURE
            parts.append(code)
        if last:
            parts.append(compile(last, name, "eval", flags | self._future, dont_inherit=True))

        asyncio.set_event_loop(self._event_loop())
        if any(code.co_flags & inspect.CO_COROUTINE for code in parts):
            value = self._run_until_complete(self._await(parts))
        else:
            for code in parts:
                value = eval(code, self.namespace)
        if last and not (";" in source and _ends_with_semicolon(source)):
            return value
        return None

    async def _await(self, parts):
        for code in parts:
            value = eval(code, self.namespace)
            if code.co_flags & inspect.CO_COROUTINE:
                value = await value
        return value

    def _create_task(self, original):
        @functools.wraps(original)
        def create_task(coroutine, **options):
            if threading.get_ident() != self._main or asyncio._get_running_loop() is not None:
                return original(coroutine, **options)
            return self._event_loop().create_task(coroutine, **options)

        return create_task

    def _event_loop(self):
        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
        return self._loop

    def _run_until_complete(self, coroutine):
        """Runs the loop until coroutine is done. A SIGINT that arrives while the loop waits cancels the task, so that the
        task's `finally` blocks run. A SIGINT that arrives while code runs, and any second one, raises KeyboardInterrupt at
        once."""
        loop, interrupted = self._loop, False
        task = loop.create_task(coroutine)

        def cancel():
            nonlocal interrupted
            if interrupted or asyncio.current_task(loop) is not None:
                return False
            interrupted = True
            loop.call_soon_threadsafe(task.cancel)
            return True

        self._interrupts.cancel = cancel
        try:
            return loop.run_until_complete(task)
        except asyncio.CancelledError as cancelled:
            if not interrupted:
                raise
            raise KeyboardInterrupt().with_traceback(cancelled.__traceback__) from None
        except KeyboardInterrupt:
            if not task.done():
                task.cancel()
                loop.run_until_complete(asyncio.wait({task}, timeout=1))
            raise
        finally:
            self._interrupts.cancel = None

    def _remember(self, name, source):
        # linecache.checkcache() does not check an entry that has no modification time.
        linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
        self._sources.append(name)
        if len(self._sources) > KEPT_SOURCES:
            linecache.cache.pop(self._sources.popleft(), None)


def _ends_with_semicolon(source):
    """Reports whether the last token of source, apart from comments, is a semicolon, as in `plot();  # shows no value`."""
    last = None
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER):
                last = token.string
    except (tokenize.TokenError, SyntaxError):
        pass
    return last == ";"
