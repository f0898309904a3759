"""rft_handler: makes a function a rollout handler.

One lifecycle, in this order: parse the payload, build the feedback client (so that a wrong setting fails before the
agent runs), bind the context, run the function, validate the reward, report, restore the context. It stands in
`_lifecycle`; what follows the decorator here drives each kind of function through it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import os
import types
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import nullcontext
from typing import Any, Literal, TypeVar, cast, overload

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.feedback import redrive
from aws_rft_sdk.feedback.off_the_loop import off_the_loop
from aws_rft_sdk.feedback.outbox import Outbox
from aws_rft_sdk.lifecycle.one_rollout import Rollout
from aws_rft_sdk.lifecycle.options import FeedbackClient, OnError, Options
from aws_rft_sdk.types import RolloutRequest, RolloutResult, carries_reward, parse_reward

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])


@overload
def rft_handler(fn: F) -> F: ...


@overload
def rft_handler(
    *,
    on_error: OnError = ...,
    floor_reward: float = ...,
    reward: Literal["result", "deferred"] = ...,
    client: FeedbackClient | Callable[[RolloutRequest], FeedbackClient] | None = ...,
    require_turns: bool = ...,
    outbox: Outbox | str | os.PathLike[str] | None = ...,
) -> Callable[[F], F]: ...


def rft_handler(
    fn: F | None = None,
    *,
    on_error: OnError = "floor",
    floor_reward: float = 0.0,
    reward: Literal["result", "deferred"] = "result",
    client: FeedbackClient | Callable[[RolloutRequest], FeedbackClient] | None = None,
    require_turns: bool = True,
    outbox: Outbox | str | os.PathLike[str] | None = None,
) -> F | Callable[[F], F]:
    """Make a function a rollout handler: bind the rollout while it runs, then report its reward.

    Works on functions, coroutine functions, generator functions of both kinds, methods and callable objects, and keeps
    their kind and signature. The payload is the argument named `payload`, else the first one; all others pass through.
    Without rollout metadata in the payload (production traffic) the function runs as if it were not decorated.

    The reward is read from the result: `{"reward": x}`, `{"rewards": [..]}` or a list under `reward` with one number
    for each turn, a bare number, or a `RolloutResult`; of a generator's items, the last one that carries a reward. It
    is validated before anything is sent. If the function reported by itself with a `RolloutFeedbackClient`, nothing is
    reported twice. Feedback of coroutine functions and async generators runs in a thread, off the event loop.

    Args:
        fn: The function, when used without parentheses.
        on_error: What happens when the function raises or is cancelled. "floor" seals the trajectory and gives it
            `floor_reward`; "failed" seals it as failed, without a reward; a callable gets the exception and returns
            the reward, or None for "failed". The exception goes on to the caller in any case; if reporting fails too,
            that error ends its `__context__` chain.
        floor_reward: Reward of a rollout that raised. A finite number.
        reward: "result" demands a reward; "deferred" allows a result without one, leaving it to someone else to seal
            and reward the trajectory later.
        client: A function that makes the feedback client of a request, or a client; None for `RolloutFeedbackClient`
            with its defaults.
        require_turns: Whether a rollout without a single tracked inference call is an error. Turn it off for functions
            whose inference is tracked elsewhere.
        outbox: A file, or an `Outbox`, in which every decision is committed before it is sent; None for the file that
            `RFT_OUTBOX` names, if it does. Then a reward that cannot be delivered now is not an error: it stays in the
            outbox, and a thread of this process, or the next one, delivers it. A trajectory that was decided already
            (the platform delivered it twice) is not run again: its `RolloutResult` comes back.

    Raises (when the decorated function is called with a rollout):
        ShuttingDownError: This process begins no more rollouts, see `lifecycle.shutdown`. The function did not run.
        PayloadError: The rollout metadata is malformed. The function did not run.
        ConfigurationError: The feedback client cannot be built. The function did not run.
        RewardError: The result carries no reward, or something that is no reward. Nothing was sent.
        NoTrackedTurnsError: No inference call carried the rollout's headers. Nothing was sent.
        DecisionConflictError: The outbox holds another decision about the trajectory. Nothing was sent.
        OutboxError: The outbox cannot be written. The function did not run.
        ServiceError: The reward could not be delivered, and there is no outbox or the service refuses it for good.
    """
    if on_error not in ("floor", "failed") and not callable(on_error):
        raise ConfigurationError(f"on_error is {on_error!r}; it must be 'floor', 'failed' or a function")
    if reward not in ("result", "deferred"):
        raise ConfigurationError(f"reward is {reward!r}; it must be 'result' or 'deferred'")
    if outbox is not None:
        # What an earlier process left is delivered even if this one never gets a rollout.
        redrive.start_if_present(outbox)
    options = Options(on_error, parse_reward(floor_reward), reward == "deferred", client, require_turns, outbox)
    if fn is None:
        return functools.partial(_decorate, options=options)
    return _decorate(fn, options)


# --- driving the kinds of functions ----------------------------------------------------------------------------------

Begin = Callable[[tuple[Any, ...], dict[str, Any]], Rollout | None]


def _decorate(fn: F, options: Options) -> F:
    if isinstance(fn, staticmethod | classmethod) or not callable(fn):
        raise ConfigurationError(
            f"rft_handler decorates functions, not {type(fn).__name__}; put it below @classmethod and @staticmethod"
        )
    payload_of = _payload_getter(fn)

    def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Rollout | None:
        request = RolloutRequest.parse(payload_of(args, kwargs))
        return None if request is None else Rollout(options, request)

    is_function = isinstance(fn, types.FunctionType | types.MethodType)
    # A callable object is of the kind of its __call__; a partial of the kind of what it holds, which inspect knows.
    kind = fn if is_function or isinstance(fn, functools.partial) else type(fn).__call__
    wrapper = _wrapper(fn, kind, begin)
    return cast(F, functools.wraps(fn, updated=("__dict__",) if is_function else ())(wrapper))


def _payload_getter(fn: Callable[..., Any]) -> Callable[[tuple[Any, ...], dict[str, Any]], object]:
    """Return a function that finds the payload among the arguments of a call of `fn`."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        names = [p.name for p in inspect.signature(fn).parameters.values() if p.kind in kinds]
    except ValueError:  # a builtin without a signature
        names = []
    # A method that is decorated in its class gets its object first.
    index = names.index("payload") if "payload" in names else int(names[:1] in (["self"], ["cls"]))
    name = names[index] if index < len(names) else "payload"

    def payload_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
        return args[index] if index < len(args) else kwargs.get(name)

    return payload_of


def _wrapper(fn: Callable[..., Any], kind: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    """Return the decorated function, of the same kind as `fn`."""
    if inspect.iscoroutinefunction(kind):

        async def coroutine_function(*args: Any, **kwargs: Any) -> Any:
            rollout = begin(args, kwargs)
            if rollout is None:
                return await fn(*args, **kwargs)
            return await _drive_awaitable(rollout, functools.partial(fn, *args, **kwargs))

        return coroutine_function
    if inspect.isasyncgenfunction(kind):
        return _async_generator_function(fn, begin)
    if inspect.isgeneratorfunction(kind):

        def generator_function(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            rollout = begin(args, kwargs)
            if rollout is None:
                return (yield from fn(*args, **kwargs))
            rollout.received()
            items = _repeat_items(rollout) if rollout.repeated is not None else fn(*args, **kwargs)
            return (yield from _drive_generator(rollout, items))

        return generator_function

    def function(*args: Any, **kwargs: Any) -> Any:
        rollout = begin(args, kwargs)
        if rollout is None:
            return fn(*args, **kwargs)
        return _drive_call(rollout, fn, args, kwargs)

    return function


def _repeat_items(rollout: Rollout) -> Generator[Any, Any, Any]:
    yield rollout.repeated


def _drive_call(rollout: Rollout, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    rollout.received()
    if rollout.repeated is not None:
        rollout.finished(None)
        return rollout.repeated
    with rollout.bound():
        try:
            result = fn(*args, **kwargs)
        except BaseException as error:
            rollout.failed(error)
            raise
        # A plain function may hand out the work of another: `def handler(payload): return agent.stream_async(...)`.
        if inspect.isawaitable(result):
            return _drive_awaitable(rollout, lambda: result, received=True)
        if inspect.isgenerator(result):
            return _drive_generator(rollout, result)
        if inspect.isasyncgen(result):
            return _async_generator_function(lambda: result, lambda args, kwargs: rollout, received=True)()
        rollout.finished(result)
    return result


async def _drive_awaitable(rollout: Rollout, start: Callable[[], Awaitable[Any]], *, received: bool = False) -> Any:
    if not received:
        await _received_off_the_loop(rollout)
    if rollout.repeated is not None:
        rollout.finished(None)
        return rollout.repeated
    with rollout.bound():
        try:
            result = await start()
        except BaseException as error:
            await off_the_loop(rollout.failed, error)
            raise
        await off_the_loop(rollout.finished, result)
    return result


async def _received_off_the_loop(rollout: Rollout) -> None:
    if not rollout.has_outbox:
        rollout.received()
        return
    try:
        await off_the_loop(rollout.received)
    except asyncio.CancelledError as error:
        # It has arrived all the same, and nobody else would report it. If it has not, `failed` does nothing.
        await off_the_loop(rollout.failed, error)
        raise


def _drive_generator(rollout: Rollout, items: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    step: Callable[[], Any] = functools.partial(next, items)
    last: object = None
    with rollout.active():
        while True:
            # Bound for one step at a time: between two steps the consumer runs, and it is not part of the rollout.
            with rollout.bound():
                try:
                    item = step()
                except StopIteration as stop:
                    result = stop.value
                    rollout.finished(result if carries_reward(result) else last)
                    return result
                except GeneratorExit:
                    # The consumer has left. If the reward was among what it took, the rollout has a result.
                    if isinstance(last, Mapping | RolloutResult):
                        rollout.finished(last)
                    else:
                        rollout.failed(GeneratorExit("the consumer left before there was a reward"))
                    raise
                except BaseException as error:
                    rollout.failed(error)
                    raise
            if carries_reward(item):
                last = item
            try:
                step = functools.partial(items.send, (yield item))
            except BaseException as error:  # thrown in by the consumer, or GeneratorExit when it is done
                step = functools.partial(items.throw, error)


def _async_generator_function(
    fn: Callable[..., Any], begin: Begin, *, received: bool = False
) -> Callable[..., AsyncGenerator[Any, Any]]:
    async def async_generator_function(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        rollout = begin(args, kwargs)
        if rollout is not None and not received:
            await _received_off_the_loop(rollout)
        if rollout is not None and rollout.repeated is not None:
            rollout.finished(None)
            yield rollout.repeated
            return
        relay = _AsyncRelay(rollout, fn(*args, **kwargs))
        with rollout.active() if rollout is not None else nullcontext():
            while await relay.advance():
                try:
                    relay.send((yield relay.item))
                except BaseException as error:  # thrown in by the consumer, or GeneratorExit when it is done
                    relay.throw(error)

    return async_generator_function


class _AsyncRelay:
    """An async generator run step by step, within a rollout or outside one. Async generators have no `yield from`."""

    item: Any = None

    def __init__(self, rollout: Rollout | None, items: AsyncGenerator[Any, Any]) -> None:
        self._rollout = rollout
        self._items = items
        self._step: Callable[[], Awaitable[Any]] = items.__anext__
        self._last: object = None

    def send(self, value: object) -> None:
        self._step = functools.partial(self._items.asend, value)

    def throw(self, error: BaseException) -> None:
        self._step = functools.partial(self._items.athrow, error)

    async def advance(self) -> bool:
        """Run to the next item; False at the end, once the reward is delivered."""
        if self._rollout is None:
            try:
                self.item = await self._step()
            except StopAsyncIteration:
                return False
            return True
        with self._rollout.bound():
            try:
                self.item = await self._step()
            except StopAsyncIteration:
                await off_the_loop(self._rollout.finished, self._last)
                return False
            except GeneratorExit:
                # The consumer has left. If the reward was among what it took, the rollout has a result.
                if isinstance(self._last, Mapping | RolloutResult):
                    await off_the_loop(self._rollout.finished, self._last)
                else:
                    await off_the_loop(self._rollout.failed, GeneratorExit("the consumer left before a reward came"))
                raise
            except BaseException as error:
                await off_the_loop(self._rollout.failed, error)
                raise
        if carries_reward(self.item):
            self._last = self.item
        return True
