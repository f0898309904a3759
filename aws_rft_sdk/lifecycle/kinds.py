"""Tells the kinds of functions that handlers can be."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable


def is_of_kind(test: Callable[[object], bool], fn: object) -> bool:
    """Whether `test`, such as `inspect.iscoroutinefunction`, holds for what a call of `fn` runs.

    A partial is of the kind of the function it holds, a callable object of the kind of its `__call__`.
    """
    while isinstance(fn, functools.partial):
        fn = fn.func
    return test(fn if isinstance(fn, types.FunctionType | types.MethodType | type) else type(fn).__call__)


def runs_in_loop(handler: object) -> bool:
    """Whether a handler is a coroutine function or an async generator function, as opposed to one for a thread."""
    return is_of_kind(inspect.iscoroutinefunction, handler) or is_of_kind(inspect.isasyncgenfunction, handler)
