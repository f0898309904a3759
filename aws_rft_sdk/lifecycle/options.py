"""The options of `rft_handler`, and the feedback client of one rollout that follows from them."""

from __future__ import annotations

import copy
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from aws_rft_sdk.client import AsyncRolloutFeedbackClient, Rewards, RolloutFeedbackClient
from aws_rft_sdk.context import ClientDefaults, RFTContext
from aws_rft_sdk.errors import ConfigurationError, RFTError
from aws_rft_sdk.feedback.outbox import Outbox, shared_outbox
from aws_rft_sdk.lifecycle.threads import wait_in
from aws_rft_sdk.settings import OUTBOX_VARIABLE, resolve_auth
from aws_rft_sdk.types import RolloutRequest, parse_reward

if TYPE_CHECKING:
    import asyncio


class FeedbackClient(Protocol):
    """What the lifecycle calls of a feedback client. Each method may be a coroutine function."""

    def report_complete(self, reward: Rewards, /) -> Awaitable[None] | None:
        """Seal the trajectory and deliver its reward."""

    def update_reward(self, reward: Rewards, /) -> Awaitable[None] | None:
        """Deliver the reward of a trajectory that is sealed already."""

    def report_error(self, error: BaseException | str, reward: Rewards | None = None, /) -> Awaitable[None] | None:
        """Seal the trajectory and deliver the floor reward, or seal it as failed if `reward` is None."""


logger = logging.getLogger(__name__)

_METHODS = ("report_complete", "update_reward", "report_error")
# Type checkers do not match its wrapped methods with a protocol, so the asynchronous client is named.
Client = FeedbackClient | AsyncRolloutFeedbackClient
ClientFactory = Callable[[RolloutRequest], Client | Awaitable[Client]]
OnError = Literal["floor", "failed"] | Callable[[BaseException], Rewards | None]


class Options:
    """Options of one decorated function.

    Raises:
        ConfigurationError: One of them is wrong.
        RewardError: The floor reward is not a finite number.
    """

    def __init__(
        self,
        on_error: OnError,
        floor_reward: float,
        reward: Literal["result", "deferred"],
        client: ClientFactory | None,
        require_turns: bool,
        defaults: ClientDefaults,
    ) -> None:
        if on_error not in ("floor", "failed") and not callable(on_error):
            raise ConfigurationError(f"on_error is {on_error!r:.80}; it must be 'floor', 'failed' or a function")
        if reward not in ("result", "deferred"):
            raise ConfigurationError(f"reward is {reward!r:.80}; it must be 'result' or 'deferred'")
        if not isinstance(require_turns, bool):
            raise ConfigurationError(f"require_turns is {require_turns!r:.80}; it must be True or False")
        if defaults.auth is not None:
            resolve_auth(defaults.auth)
        if client is not None:
            _check_factory(client)
        self.on_error = on_error
        self.floor_reward = parse_reward(floor_reward)
        self.deferred = reward == "deferred"
        self.require_turns = require_turns
        self._warned = False
        self._make_client: ClientFactory = client or RolloutFeedbackClient
        self.client_defaults = defaults

    def client_for(self, context: RFTContext) -> FeedbackClient:
        """Return the feedback client of one rollout. All its methods block.

        Raises:
            RFTError: The client cannot be made.
        """
        with _making(context):
            made = self._make_client(context.request)
            return self._checked(wait_in(None, made) if inspect.isawaitable(made) else made, context.request, None)

    async def client_in_loop(self, context: RFTContext) -> FeedbackClient:
        """Like `client_for`, and coroutines of the client run in the running loop. Call its methods in a thread."""
        import asyncio

        with _making(context):
            made = self._make_client(context.request)
            made = await made if inspect.isawaitable(made) else made
            return self._checked(made, context.request, asyncio.get_running_loop())

    def _checked(
        self, client: object, request: RolloutRequest, loop: asyncio.AbstractEventLoop | None
    ) -> FeedbackClient:
        kind = "None" if client is None else f"a {type(client).__name__}"
        if isinstance(client, type) or not all(callable(getattr(client, name, None)) for name in _METHODS):
            raise ConfigurationError(
                f"client= returned {kind}, which is not a feedback client: it lacks the methods {', '.join(_METHODS)}. "
                "For example client=lambda request: RolloutFeedbackClient(request)"
            )
        metadata = getattr(client, "metadata", None)
        if metadata is not None and metadata.trajectory_id != request.trajectory_id:
            raise ConfigurationError(
                f"client= returned a client of trajectory {metadata.trajectory_id!r} for {request.trajectory_id!r}. "
                "Make a client for each request: client=lambda request: RolloutFeedbackClient(request)"
            )
        blocking = _blocking(client, loop)
        self._check_outbox(kind, blocking.outbox if isinstance(blocking, RolloutFeedbackClient) else None)
        return blocking

    def _check_outbox(self, kind: str, used: Outbox | None) -> None:
        given = self.client_defaults.outbox
        wanted = shared_outbox(given)
        if wanted is None or (used is not None and (given is None or used.path == wanted.path)):
            return
        problem = f"client= returned {kind} {'without an' if used is None else 'with another'} outbox"
        if given is not None:
            raise ConfigurationError(
                f"{problem}, and outbox= is given. Return a RolloutFeedbackClient, which takes the outbox of its "
                "handler, or drop outbox="
            )
        if not self._warned:
            self._warned = True
            logger.warning(
                "%s, so this handler does not use %s: what is delivered again runs again, and nothing is sent later",
                problem,
                OUTBOX_VARIABLE,
            )


@contextmanager
def _making(context: RFTContext) -> Iterator[None]:
    try:
        with RFTContext.bind(context):
            yield
    except RFTError:
        raise
    except Exception as error:
        # The text of the error is left out, since it may hold a secret.
        raise ConfigurationError(
            f"client= raised {type(error).__name__} for trajectory {context.trajectory_id}"
        ) from error


def _blocking(client: object, loop: asyncio.AbstractEventLoop | None) -> FeedbackClient:
    """Return a client whose methods block: what those of `client` await runs in the loop of another thread."""
    if isinstance(client, RolloutFeedbackClient):
        if any(inspect.iscoroutinefunction(getattr(client, name)) for name in _METHODS):
            # The methods that it inherits would call its coroutine functions and not await them.
            raise ConfigurationError(
                f"{type(client).__name__} has coroutine methods; derive it from AsyncRolloutFeedbackClient"
            )
        return client
    # A copy, since the methods of `client` may call those of the client it holds.
    result: Any = copy.copy(client.blocking) if isinstance(client, AsyncRolloutFeedbackClient) else SimpleNamespace()
    for name in _METHODS:
        setattr(result, name, functools.partial(_call, loop, getattr(client, name)))
    return cast(FeedbackClient, result)


def _call(loop: asyncio.AbstractEventLoop | None, method: Callable[..., Any], *args: object) -> Any:
    result = method(*args)
    return wait_in(loop, result) if inspect.isawaitable(result) else result


def _check_factory(client: object) -> None:
    if not callable(client) or (not isinstance(client, type) and hasattr(client, "report_complete")):
        raise ConfigurationError(
            f"client= is a {type(client).__name__}; it must be a function that makes the client of a request. "
            "Type client=RolloutFeedbackClient, or client=lambda request: my_client"
        )
    try:
        inspect.signature(client).bind(None)
    except TypeError as error:
        raise ConfigurationError(
            f"client= must take one argument, the RolloutRequest ({error}). Type client=lambda request: my_client"
        ) from None
    except ValueError:
        pass  # a builtin without a signature
