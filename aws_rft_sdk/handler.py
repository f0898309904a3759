"""rft_handler: makes a function a rollout handler.

Every rollout takes the same steps: parse the payload, make the feedback client (so that a wrong setting fails before
the agent runs), bind the context, run the function, validate the reward, report it, restore the context. `lifecycle`
holds the steps. This file takes each kind of function through them.
"""

from __future__ import annotations

import functools
import inspect
import os
import types
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import nullcontext
from typing import Any, Literal, TypeVar, cast, overload

from aws_rft_sdk.context import ClientDefaults, RFTContext
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.feedback import redrive
from aws_rft_sdk.feedback.off_the_loop import off_the_loop
from aws_rft_sdk.feedback.outbox import Outbox
from aws_rft_sdk.lifecycle.kinds import is_of_kind
from aws_rft_sdk.lifecycle.one_rollout import Rollout, running
from aws_rft_sdk.lifecycle.options import ClientFactory, OnError, Options
from aws_rft_sdk.settings import Auth
from aws_rft_sdk.types import RolloutRequest, RolloutResult, carries_reward

F = TypeVar("F", bound=Callable[..., Any])


@overload
def rft_handler(fn: F) -> F: ...


@overload
def rft_handler(
    *,
    on_error: OnError = ...,
    floor_reward: float = ...,
    reward: Literal["result", "deferred"] = ...,
    client: ClientFactory | None = ...,
    require_turns: bool = ...,
    outbox: Outbox | str | os.PathLike[str] | None = ...,
    auth: Auth | None = ...,
) -> Callable[[F], F]: ...


def rft_handler(
    fn: F | None = None,
    *,
    on_error: OnError = "floor",
    floor_reward: float = 0.0,
    reward: Literal["result", "deferred"] = "result",
    client: ClientFactory | None = None,
    require_turns: bool = True,
    outbox: Outbox | str | os.PathLike[str] | None = None,
    auth: Auth | None = None,
) -> F | Callable[[F], F]:
    """Make a function a rollout handler: bind the rollout while it runs, then report its reward.

    Works on functions, coroutine functions, generator functions of both kinds, methods and callable objects, and keeps
    their kind and signature. The payload is the argument named `payload`, else the first one: a mapping, a
    `RolloutRequest`, a `RolloutMetadata` or an `RFTContext`. All other arguments pass through. A mapping without
    rollout metadata is production traffic, and the function runs as if it were not decorated.

    The reward is read from the result: `{"reward": x}`, `{"rewards": [..]}` or a list under `reward` with one number
    for each turn, a bare number, or a `RolloutResult`. A generator's reward is in its last item that carries one. The
    reward is validated before anything is sent. If the function reports by itself with a `RolloutFeedbackClient`,
    nothing is reported twice. A handler that is called within the rollout of the same trajectory is part of that
    rollout, and only the outermost handler reports. Feedback of coroutine functions and async generators runs in a
    thread and does not block the event loop.

    Args:
        fn: The function, when used without parentheses.
        on_error: What happens if the function raises or is cancelled. "floor" seals the trajectory and gives it
            `floor_reward`. "failed" seals it as failed, without a reward. A callable gets the exception and returns
            the reward, or None for "failed". The exception has an attribute `kind`, a `FailureKind`, which says why the
            rollout failed. The exception goes on to the caller in any case. If reporting fails too, that error ends its
            `__context__` chain.
        floor_reward: Reward of a rollout that raised. A finite number.
        reward: "result" demands a reward. "deferred" allows a result without a reward. Then you seal and reward the
            trajectory later.
        client: Makes the feedback client of each rollout from its `RolloutRequest`: a class, a function or a coroutine
            function. Methods of the client may be coroutine functions. They run in the event loop of the handler, or
            in a loop in a thread if the handler is a plain function. None for `RolloutFeedbackClient`.
        require_turns: Whether a rollout without a single tracked inference call is an error. Turn it off for functions
            whose inference is tracked elsewhere.
        outbox: A file, or an `Outbox`. Every decision is committed to it before it is sent, also by the clients that
            `client` makes, and by those that the function makes for its own trajectory. None for the file that
            `RFT_OUTBOX` names, if it is set. With an outbox, a reward that cannot be delivered now is not an error: it
            stays in the outbox, and a thread of this process or the next process delivers it. If the platform delivers
            a trajectory again that is decided already, the function does not run, and its `RolloutResult` is returned.
        auth: "sigv4" or "bearer", also for the same clients, unless they name their own. None for `RFT_AUTH`, else
            "sigv4".

    Raises:
        ConfigurationError: An option is wrong.

    The decorated function raises, if it is called with a rollout:
        ShuttingDownError: This process begins no more rollouts, see `lifecycle.shutdown`. The function did not run.
        PayloadError: The rollout metadata is malformed. The function did not run.
        ConfigurationError: The feedback client cannot be made. The function did not run.
        RewardError: The result carries no reward, or something that is not a reward. Nothing was sent.
        NoTrackedTurnsError: No inference call carried the rollout's headers. Nothing was sent.
        DecisionConflictError: The outbox holds another decision about the trajectory. Nothing was sent.
        OutboxError: The outbox cannot be written. The function did not run.
        ServiceError: The reward could not be delivered, and there is no outbox or the service refuses it for good.
    """
    options = Options(on_error, floor_reward, reward, client, require_turns, ClientDefaults(outbox, auth))
    if outbox is not None:
        # What an earlier process left is delivered even if this one never gets a rollout.
        redrive.start_if_present(outbox)
    if fn is None:
        return functools.partial(_decorate, options=options)
    return _decorate(fn, options)


# --- driving the kinds of functions ----------------------------------------------------------------------------------

Begin = Callable[[tuple[Any, ...], dict[str, Any]], Rollout | None]
BeginInLoop = Callable[[tuple[Any, ...], dict[str, Any]], Awaitable[Rollout | None]]


def _decorate(fn: F, options: Options) -> F:
    if isinstance(fn, staticmethod | classmethod | type) or not callable(fn):
        raise ConfigurationError(
            f"rft_handler decorates functions, not {type(fn).__name__}; put it below @classmethod and @staticmethod"
        )
    payload_of = _payload_getter(fn)

    def context_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> RFTContext | None:
        payload = payload_of(args, kwargs)
        request = RolloutRequest.parse(payload.request if isinstance(payload, RFTContext) else payload)
        if request is None or _is_part_of_a_rollout(request):
            return None
        return RFTContext(request, options.client_defaults)

    def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Rollout | None:
        if (context := context_of(args, kwargs)) is None:
            return None
        rollout = Rollout(options, context, options.client_for(context))
        rollout.received()
        return rollout

    async def begin_in_loop(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Rollout | None:
        if (context := context_of(args, kwargs)) is None:
            return None
        rollout = Rollout(options, context, await options.client_in_loop(context))
        if rollout.outbox is None:
            rollout.received()
            return rollout
        try:
            await off_the_loop(rollout.received)
        except BaseException as error:  # it has arrived all the same if this is a cancellation
            await off_the_loop(rollout.failed, error)
            raise
        return rollout

    wrapper = _wrapper(fn, begin, begin_in_loop)
    is_function = isinstance(fn, types.FunctionType | types.MethodType)
    return cast(F, functools.wraps(fn, updated=("__dict__",) if is_function else ())(wrapper))


def _payload_getter(fn: Callable[..., Any]) -> Callable[[tuple[Any, ...], dict[str, Any]], object]:
    """Return a function that finds the payload among the arguments of a call of `fn`."""
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    try:
        parameters = {p.name: p for p in inspect.signature(fn).parameters.values() if p.kind not in variable}
    except ValueError:  # a builtin without a signature
        parameters = {}
    names = list(parameters)
    # A method that is decorated in its class gets its object first.
    index = names.index("payload") if "payload" in names else int(names[:1] in (["self"], ["cls"]))
    name = names[index] if index < len(names) else "payload"
    if name in parameters and parameters[name].kind is inspect.Parameter.KEYWORD_ONLY:
        return lambda args, kwargs: kwargs.get(name)
    return lambda args, kwargs: args[index] if index < len(args) else kwargs.get(name)


def _is_part_of_a_rollout(request: RolloutRequest) -> bool:
    """Whether this very rollout is in progress here. Its outermost handler reports it, and no handler within does."""
    context = RFTContext.current()
    return (
        context is not None
        and (context.job_arn, context.trajectory_id) == (request.job_arn, request.trajectory_id)
        and any(rollout.context is context for rollout in running())
    )


def _wrapper(fn: Callable[..., Any], begin: Begin, begin_in_loop: BeginInLoop) -> Callable[..., Any]:
    """Return the decorated function, of the same kind as `fn`."""
    if is_of_kind(inspect.iscoroutinefunction, fn):

        async def coroutine_function(*args: Any, **kwargs: Any) -> Any:
            rollout = await begin_in_loop(args, kwargs)
            if rollout is None:
                return await fn(*args, **kwargs)
            return await _drive_awaitable(rollout, functools.partial(fn, *args, **kwargs))

        return coroutine_function
    if is_of_kind(inspect.isasyncgenfunction, fn):
        return _async_generator_function(fn, begin_in_loop)
    if is_of_kind(inspect.isgeneratorfunction, fn):

        def generator_function(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            rollout = begin(args, kwargs)
            if rollout is None:
                return (yield from fn(*args, **kwargs))
            if rollout.repeated is not None:
                yield rollout.repeated
                return None
            return (yield from _drive_generator(rollout, _called_at_first_step(fn, *args, **kwargs)))

        return generator_function

    def function(*args: Any, **kwargs: Any) -> Any:
        rollout = begin(args, kwargs)
        if rollout is None:
            return fn(*args, **kwargs)
        return _drive_call(rollout, functools.partial(fn, *args, **kwargs))

    return function


def _drive_call(rollout: Rollout, call: Callable[[], Any]) -> Any:
    if rollout.repeated is not None:
        return rollout.repeated
    with rollout.bound():
        try:
            result = call()
        except BaseException as error:
            rollout.failed(error)
            raise
        # A plain function may hand out the work of another: `def handler(payload): return agent.stream_async(...)`.
        if inspect.isawaitable(result):
            driver: Any = _drive_awaitable(rollout, lambda: result)
        elif inspect.isgenerator(result):
            driver = _drive_generator(rollout, result)
        elif inspect.isasyncgen(result):

            async def begun(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Rollout:
                return rollout

            driver = _async_generator_function(lambda: result, begun)()
        else:
            rollout.finished(result)
            return result
    # The rollout has begun. A driver that is dropped before its first step would never report it.
    weakref.finalize(driver, rollout.failed, GeneratorExit("what the handler returned was not used"))
    return driver


async def _drive_awaitable(rollout: Rollout, call: Callable[[], Awaitable[Any]]) -> Any:
    if rollout.repeated is not None:
        return rollout.repeated
    with rollout.bound():
        try:
            result = await call()
        except BaseException as error:
            await off_the_loop(rollout.failed, error)
            raise
        await off_the_loop(rollout.finished, result)
    return result


def _called_at_first_step(fn: Callable[..., Generator[Any, Any, Any]], *args: Any, **kwargs: Any) -> Any:
    """Return what `fn` returns. Wrong arguments are an error of the first step, so that it is reported."""
    return (yield from fn(*args, **kwargs))


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
                    rollout.finished(stop.value if carries_reward(stop.value) else last)
                    return stop.value
                except BaseException as error:
                    _report_of(rollout, error, last)()
                    raise
            if carries_reward(item):
                last = item
            try:
                step = functools.partial(items.send, (yield item))
            except BaseException as error:  # thrown in by the consumer, or GeneratorExit when it is done
                step = functools.partial(items.throw, error)


def _report_of(rollout: Rollout, error: BaseException, last: object) -> Callable[[], object]:
    """Return what reports a stream that ended with `error`. `last` is its last item that carries a reward."""
    if isinstance(error, GeneratorExit) and isinstance(last, Mapping | RolloutResult):
        return functools.partial(rollout.finished, last)  # the consumer has left with the result
    return functools.partial(rollout.failed, error)


def _async_generator_function(fn: Callable[..., Any], begin: BeginInLoop) -> Callable[..., AsyncGenerator[Any, Any]]:
    async def async_generator_function(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        rollout = await begin(args, kwargs)
        if rollout is not None and rollout.repeated is not None:
            yield rollout.repeated
            return
        items: Any = None
        last: object = None

        async def first_step() -> Any:
            nonlocal items
            items = fn(*args, **kwargs)  # wrong arguments are an error of the rollout
            return await items.__anext__()

        step: Callable[[], Awaitable[Any]] = first_step
        with rollout.active() if rollout is not None else nullcontext():
            while True:  # async generators have no `yield from`, so production traffic goes this way too
                with rollout.bound() if rollout is not None else nullcontext():
                    try:
                        item = await step()
                    except StopAsyncIteration:
                        if rollout is not None:
                            await off_the_loop(rollout.finished, last)
                        return
                    except BaseException as error:
                        if rollout is not None:
                            await off_the_loop(_report_of(rollout, error, last))
                        raise
                if rollout is not None and carries_reward(item):
                    last = item
                try:
                    step = functools.partial(items.asend, (yield item))
                except BaseException as error:  # thrown in by the consumer, or GeneratorExit when it is done
                    step = functools.partial(items.athrow, error)

    return async_generator_function
