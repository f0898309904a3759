"""Every kind of function that `rft_handler` takes, made of one synchronous body; and one way to call them all."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any

from aws_rft_sdk import rft_handler

Body = Callable[[Any], Any]
"""What the handler does with its payload; returns the result, or the last item of a stream."""


def sync(body: Body, **options: Any) -> Any:
    @rft_handler(**options)
    def handler(payload: Any, context: Any = None) -> Any:
        return body(payload)

    return handler


def coroutine(body: Body, **options: Any) -> Any:
    @rft_handler(**options)
    async def handler(payload: Any, context: Any = None) -> Any:
        await asyncio.sleep(0)
        return body(payload)

    return handler


def generator(body: Body, **options: Any) -> Any:
    @rft_handler(**options)
    def handler(payload: Any, context: Any = None) -> Any:
        yield "begun"
        yield body(payload)
        yield "done"

    return handler


def returning_generator(body: Body, **options: Any) -> Any:
    @rft_handler(**options)
    def handler(payload: Any, context: Any = None) -> Any:
        yield "begun"
        return body(payload)

    return handler


def async_generator(body: Body, **options: Any) -> Any:
    @rft_handler(**options)
    async def handler(payload: Any, context: Any = None) -> Any:
        yield "begun"
        await asyncio.sleep(0)
        yield body(payload)
        yield "done"

    return handler


def bound_method(body: Body, **options: Any) -> Any:
    class Agent:
        def handler(self, payload: Any, context: Any = None) -> Any:
            return body(payload)

    return rft_handler(**options)(Agent().handler)


def method_in_class(body: Body, **options: Any) -> Any:
    class Agent:
        @rft_handler(**options)
        async def handler(self, payload: Any, context: Any = None) -> Any:
            assert isinstance(self, Agent)
            return body(payload)

    return Agent().handler


def class_method(body: Body, **options: Any) -> Any:
    class Agent:
        @classmethod
        @rft_handler(**options)
        def handler(cls, payload: Any, context: Any = None) -> Any:
            assert cls is Agent
            return body(payload)

    return Agent.handler


def callable_object(body: Body, **options: Any) -> Any:
    class Agent:
        def __call__(self, payload: Any, context: Any = None) -> Any:
            return body(payload)

    return rft_handler(**options)(Agent())


def async_callable_object(body: Body, **options: Any) -> Any:
    class Agent:
        async def __call__(self, payload: Any, context: Any = None) -> Any:
            return body(payload)

    return rft_handler(**options)(Agent())


def streaming_callable_object(body: Body, **options: Any) -> Any:
    class Agent:
        async def __call__(self, payload: Any, context: Any = None) -> Any:
            yield body(payload)

    return rft_handler(**options)(Agent())


def partial(body: Body, **options: Any) -> Any:
    def handler(agent: str, payload: Any, context: Any = None) -> Any:
        assert agent == "agent"
        return body(payload)

    return rft_handler(**options)(functools.partial(handler, "agent"))


def async_partial(body: Body, **options: Any) -> Any:
    async def handler(agent: str, payload: Any, context: Any = None) -> Any:
        return body(payload)

    return rft_handler(**options)(functools.partial(handler, "agent"))


def returns_coroutine(body: Body, **options: Any) -> Any:
    async def work(payload: Any) -> Any:
        return body(payload)

    @rft_handler(**options)
    def handler(payload: Any, context: Any = None) -> Any:
        return work(payload)

    return handler


def returns_generator(body: Body, **options: Any) -> Any:
    def work(payload: Any) -> Any:
        yield body(payload)

    return rft_handler(**options)(lambda payload, context=None: work(payload))


def returns_async_generator(body: Body, **options: Any) -> Any:
    async def work(payload: Any) -> Any:
        yield body(payload)

    return rft_handler(**options)(lambda payload, context=None: work(payload))


KINDS = [
    sync,
    coroutine,
    generator,
    returning_generator,
    async_generator,
    bound_method,
    method_in_class,
    class_method,
    callable_object,
    async_callable_object,
    streaming_callable_object,
    partial,
    async_partial,
    returns_coroutine,
    returns_generator,
    returns_async_generator,
]


def call(handler: Any, payload: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a handler as its kind wants; the items of a stream and its return value count together."""

    async def run() -> Any:
        result = handler(payload, *args, **kwargs)
        if inspect.isasyncgen(result):
            return [item async for item in result]
        return await result if inspect.isawaitable(result) else result

    if inspect.iscoroutinefunction(handler) or inspect.isasyncgenfunction(handler):
        return asyncio.run(run())
    result = handler(payload, *args, **kwargs)
    if inspect.isgenerator(result):
        items = []
        while True:
            try:
                items.append(next(result))
            except StopIteration as stop:
                return [*items, stop.value]
    if inspect.isawaitable(result):
        return asyncio.run(_awaited(result))
    if inspect.isasyncgen(result):
        return asyncio.run(_collected(result))
    return result


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


async def _collected(items: Any) -> list[Any]:
    return [item async for item in items]
