"""What can be found out about a handler by looking at it and by running it under changed conditions."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from strands import Agent
from strands.models.model import Model

from aws_rft_sdk.adapters.strands import wrap_model
from aws_rft_sdk.context import RFTContext
from aws_rft_sdk.errors import ConfigurationError


@contextmanager
def threads_with_context() -> Iterator[None]:
    """Give every thread that is started, and everything that a pool is handed, the context of whoever does so.

    It changes the standard library for the body of a `with`, so it is for a single rollout of a diagnosis.
    """
    submit, start = ThreadPoolExecutor.submit, threading.Thread.start

    def submit_carried(self: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return submit(self, _carried(fn), *args, **kwargs)

    def start_carried(self: threading.Thread) -> None:
        if not _is_pool_worker(self):
            self.run = _carried(self.run)  # type: ignore[method-assign] # that is the experiment
        start(self)

    ThreadPoolExecutor.submit = submit_carried  # type: ignore[method-assign,assignment] # that is the experiment
    threading.Thread.start = start_carried  # type: ignore[method-assign] # that is the experiment
    try:
        yield
    finally:
        ThreadPoolExecutor.submit = submit  # type: ignore[method-assign] # as it was
        threading.Thread.start = start  # type: ignore[method-assign] # as it was


def _is_pool_worker(thread: threading.Thread) -> bool:
    # It outlives whoever starts it; what it is handed is carried one by one.
    return str(getattr(getattr(thread, "_target", None), "__module__", "")).startswith("concurrent.")


def _carried(fn: Callable[..., Any]) -> Callable[..., Any]:
    # Outside a rollout nothing is carried, so that the machinery of other threads stays as it is.
    is_plain = not (inspect.iscoroutinefunction(fn) or inspect.isgeneratorfunction(fn))
    return RFTContext.carry(fn) if is_plain and RFTContext.current() is not None else fn


def unwrapped_names(handler: Callable[..., Any]) -> tuple[str, ...]:
    """Return the variables of the handler's module that hold a Strands model, or an agent of one, that is not wrapped.

    In the order of their definition, as `module.variable`.
    """
    function = inspect.unwrap(getattr(handler, "__func__", handler))
    variables = getattr(function, "__globals__", {})
    module = str(variables.get("__name__", ""))
    return tuple(f"{module}.{name}" for name, value in list(variables.items()) if _is_unwrapped(value))


def _is_unwrapped(value: object) -> bool:
    model = value.model if isinstance(value, Agent) else value
    if not isinstance(model, Model):
        return False
    try:
        return wrap_model(model) is not model
    except ConfigurationError:
        return True  # of a provider that cannot be wrapped
