"""The rollout in progress: which one it is, the headers of its inference calls, and how many calls were made.

One `ContextVar` holds it, so it is private to each thread and each task, survives the worker thread in which Strands
runs a synchronous agent call (a copied context), nests, and is restored by token rather than cleared.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar, cast

from aws_rft_sdk import telemetry, wire
from aws_rft_sdk._decision import CallState, Completion, Decision, Rewards
from aws_rft_sdk._fork import in_forked_child
from aws_rft_sdk.errors import PayloadError, RewardError
from aws_rft_sdk.types import InferenceParams, RolloutMetadata, RolloutRequest

P = ParamSpec("P")
R = TypeVar("R")

_current: contextvars.ContextVar[RFTContext | None] = contextvars.ContextVar("aws_rft_sdk_rollout", default=None)


class TurnState(str, Enum):
    """What has become of an inference call."""

    BEGUN = "begun"
    """Under way, or made with headers by hand: nobody told us how it ended."""
    ANSWERED = "answered"
    """Its answer arrived whole."""
    REFUSED = "refused"
    """It ended before it can have been sampled: no connection, or turned away."""
    FAILED = "failed"
    """It ended in another way. It may have been sampled, and if the agent made it again, it may have been twice."""


class TurnCount(int):
    """How many inference calls a rollout has begun, an `int`; and what became of them."""

    answered: int
    """Calls whose answer arrived whole."""
    failed: int
    """Calls that ended without one, or were given up."""
    unsure: int
    """Those of the failed ones that may have been sampled all the same."""

    def __new__(cls, begun: int, answered: int = 0, failed: int = 0, unsure: int = 0) -> TurnCount:
        """Count `begun` calls, of which some are answered and some failed; the rest are under way."""
        count = super().__new__(cls, begun)
        count.answered, count.failed, count.unsure = answered, failed, unsure
        return count

    @property
    def begun(self) -> int:
        """Calls begun, the value of this number."""
        return int(self)

    def __getnewargs__(self) -> tuple[int, int, int, int]:  # type: ignore[override] # ours takes more
        return int(self), self.answered, self.failed, self.unsure


class TurnHeaders(NamedTuple):
    """One inference call that has begun."""

    span_id: str
    headers: dict[str, str]
    """What the call must carry, for both generations of the contract."""


class Holder(Protocol):
    """Holds the decision about a trajectory. `feedback.delivery` has the classes."""

    durable: bool
    """Whether it outlives the process."""

    @property
    def seen(self) -> Decision:
        """The decision as this process knows it."""


class RFTContext:
    """One rollout in progress.

    `RFTContext.current()` finds it from anywhere below the handler. Safe to read from several threads and tasks; each
    of them sees the rollout that it was started in.
    """

    __slots__ = ("_lock", "_own_span_id", "_turns", "holder", "outcome", "request")

    request: RolloutRequest
    holder: Holder | None
    """Set by the first feedback client that acts on the trajectory, and used by all of them."""
    outcome: str | None
    """How its handler ended: "completed", "deferred", "failed" (and reported), "unreported"; None before that."""

    def __init__(self, request: RolloutRequest, *, own_span_id: str | None = None) -> None:
        """Begin a rollout.

        Args:
            request: Its request.
            own_span_id: OpenTelemetry's id of the span of the rollout as a whole, which is no turn's; None without one.
        """
        self.request = request
        self.holder = None
        self.outcome = None
        self._own_span_id = own_span_id
        self._turns: dict[str, TurnState] = {}  # by span id, in order of beginning
        self._lock = threading.Lock()  # turns of one rollout may begin in several threads at once

    def __repr__(self) -> str:
        return f"<RFTContext trajectory_id={self.trajectory_id!r} turns={self.turns}>"

    @property
    def job_arn(self) -> str:
        """ARN of the training job."""
        return self.request.job_arn

    @property
    def trajectory_id(self) -> str:
        """The service's id of the trajectory."""
        return self.request.trajectory_id

    @property
    def metadata(self) -> RolloutMetadata:
        """Job, trajectory, endpoint and region of the rollout."""
        return self.request.metadata

    @property
    def inference_params(self) -> InferenceParams:
        """Sampling parameters that the job asks for."""
        return self.request.inference_params

    @property
    def decision(self) -> Decision:
        """What feedback clients were told about the trajectory, and how far its delivery is."""
        return Decision() if self.holder is None else self.holder.seen

    @property
    def completion(self) -> Completion | None:
        """Status under which a feedback client has sealed the trajectory; None while it is open."""
        decision = self.decision
        return decision.completion if decision.seal is CallState.CONFIRMED else None

    @property
    def rewards(self) -> Rewards | None:
        """What a feedback client has delivered: one number, or one for each turn; None while there is no reward."""
        decision = self.decision
        return decision.rewards if decision.reward is CallState.CONFIRMED else None

    @property
    def turns(self) -> TurnCount:
        """Inference calls begun so far, with `.answered` and `.failed` of them.

        Calls made with headers by hand count as begun only: nobody told us how they ended.
        """
        with self._lock:
            states = list(self._turns.values())
        unsure = states.count(TurnState.FAILED)
        failed = unsure + states.count(TurnState.REFUSED)
        return TurnCount(len(states), states.count(TurnState.ANSWERED), failed, unsure)

    @property
    def span_ids(self) -> tuple[str, ...]:
        """Span ids of the turns, in the order in which they began."""
        return tuple(self.turn_states)

    @property
    def turn_states(self) -> dict[str, TurnState]:
        """What has become of each turn, by span id, in the order in which they began. A new dict."""
        with self._lock:
            return dict(self._turns)

    @property
    def has_tracked_turns(self) -> bool:
        """Whether any inference call may have reached the policy: one that was not turned away before."""
        with self._lock:
            return any(state is not TurnState.REFUSED for state in self._turns.values())

    def check_turn_rewards(self, rewards: Sequence[float]) -> None:
        """Check that a list of rewards can belong to the turns of this rollout.

        One reward is for the trajectory as a whole and always fits. More must be one for each turn; turns that failed
        may count or not, since the runtime may have recorded them or not.

        Raises:
            RewardError: The number of rewards fits no count of turns; the message lists the turns.
        """
        turns = self.turns
        if len(rewards) == 1 or turns.begun - turns.failed <= len(rewards) <= turns.begun:
            return
        states = self.turn_states.items()
        listed = ", ".join(f"{n}: {state.value} ({span_id})" for n, (span_id, state) in enumerate(states))
        raise RewardError(
            f"trajectory {self.trajectory_id} has {len(rewards)} rewards for {turns.begun} turns; give one for each "
            f"turn, or one for all. The turns are {listed or 'none'}"
        )

    def headers(self) -> dict[str, str]:
        """Begin a turn and return the headers of its inference call, as a new dict.

        Every call begins another turn with a new span id, so call it once for each request, and again for no
        repetition of the same request. The span id is OpenTelemetry's when a span is recording that has not been used
        for a turn of this rollout yet, otherwise a random UUID.
        """
        return self.begin_turn().headers

    def begin_turn(self) -> TurnHeaders:
        """Like `headers`, for adapters that also report the end with `end_turn`."""
        recording = telemetry.recording_span_id()
        with self._lock:
            usable = recording is not None and recording != self._own_span_id and recording not in self._turns
            span_id = recording if recording is not None and usable else str(uuid.uuid4())
            self._turns[span_id] = TurnState.BEGUN
        headers = wire.inference_headers(self.job_arn, self.trajectory_id, span_id)
        telemetry.inject(headers)
        return TurnHeaders(span_id, headers)

    def end_turn(self, span_id: str, state: TurnState) -> None:
        """Note what has become of a turn."""
        with self._lock:
            self._turns[span_id] = state

    @staticmethod
    def current() -> RFTContext | None:
        """Return the rollout in progress in this thread or task, None outside one."""
        return _current.get()

    @staticmethod
    def get_headers() -> dict[str, str]:
        """Begin a turn of the current rollout and return its headers; outside a rollout `{}`. See `headers`."""
        context = _current.get()
        return context.headers() if context is not None else {}

    @staticmethod
    def get_metadata() -> RolloutMetadata | None:
        """Return the metadata of the current rollout, None outside one."""
        context = _current.get()
        return context.metadata if context is not None else None

    @staticmethod
    @contextmanager
    def bind(request: RolloutRequest | Mapping[str, Any] | RFTContext) -> Iterator[RFTContext]:
        """Make a rollout the current one for the body of a `with`, then restore what was current before.

        For workers that do not use `rft_handler`; it reports nothing. Not for the body of a generator, where it would
        leak into whoever consumes the items.

        Args:
            request: A request, a payload in any spelling, or a context to take up again.

        Raises:
            PayloadError: A payload without rollout metadata, or a malformed one.
        """
        context = request if isinstance(request, RFTContext) else RFTContext(_request_of(request))
        token = _current.set(context)
        try:
            with active(context):
                yield context
        finally:
            _current.reset(token)

    @staticmethod
    def carry(fn: Callable[P, R]) -> Callable[P, R]:
        """Return `fn` so that it runs within the current rollout wherever it is called.

        For threads and pools of your own: `pool.submit(RFTContext.carry(work), item)`. All context variables travel,
        OpenTelemetry's among them. The result may be called many times, also at once. Outside a rollout it changes
        nothing that `fn` could notice except that.

        Raises:
            TypeError: `fn` is a generator function, whose body runs later and elsewhere; carry what consumes it.
        """
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise TypeError("RFTContext.carry does not take generator functions; carry what consumes the generator")
        snapshot = contextvars.copy_context()
        if inspect.iscoroutinefunction(fn):

            @functools.wraps(fn)
            async def carried_coroutine(*args: Any, **kwargs: Any) -> Any:
                import asyncio

                # A task takes a copy of the context it is made in, so it is made inside the snapshot.
                return await snapshot.copy().run(asyncio.ensure_future, fn(*args, **kwargs))

            return cast(Callable[P, R], carried_coroutine)

        @functools.wraps(fn)
        def carried(*args: P.args, **kwargs: P.kwargs) -> R:
            # A copy for each call, since one Context cannot be entered twice at once.
            return snapshot.copy().run(fn, *args, **kwargs)

        return carried


_collector: contextvars.ContextVar[list[RFTContext] | None] = contextvars.ContextVar("aws_rft_sdk_seen", default=None)


@contextmanager
def collecting() -> Iterator[list[RFTContext]]:
    """Collect the contexts that are bound below the body of a `with`, each once, in order of beginning.

    For those who start rollouts and want to know afterwards what became of them.
    """
    collected: list[RFTContext] = []
    token = _collector.set(collected)
    try:
        yield collected
    finally:
        _collector.reset(token)


_active: dict[tuple[str, str], list[RFTContext]] = {}
_active_lock = threading.Lock()


@contextmanager
def active(context: RFTContext) -> Iterator[None]:
    """Make `context` known to feedback clients in any thread for the body of a `with`."""
    key = (context.job_arn, context.trajectory_id)
    collected = _collector.get()
    if collected is not None and context not in collected:
        collected.append(context)
    with _active_lock:
        others = _active.setdefault(key, [])
        if context.holder is None:
            context.holder = next((other.holder for other in others), None)
        others.append(context)
    try:
        yield
    finally:
        with _active_lock:
            others = _active.get(key, [])  # not there in a process that was forked meanwhile
            if context in others:
                others.remove(context)
            if not others:
                _active.pop(key, None)


def share_holder(metadata: RolloutMetadata, own: Holder) -> Holder:
    """Return what holds the decision about a trajectory, for a client that has `own` for it.

    During a rollout it is the same one for all clients, however often the trajectory was delivered to this process. One
    that outlives the process goes first.
    """
    with _active_lock:
        contexts = _active.get((metadata.job_arn, metadata.trajectory_id), [])
        known = [*(context.holder for context in contexts if context.holder is not None), own]
        held = next((holder for holder in known if holder.durable), known[0])
        for context in contexts:
            context.holder = held
    return held


@in_forked_child
def _forget_after_fork() -> None:
    # The rollouts of the parent go on there; here nobody would release its lock.
    global _active_lock
    _active_lock = threading.Lock()
    _active.clear()


def _request_of(request: RolloutRequest | Mapping[str, Any]) -> RolloutRequest:
    parsed = request if isinstance(request, RolloutRequest) else RolloutRequest.parse(request)
    if parsed is None:
        raise PayloadError("metadata is missing: the payload is no rollout, nothing can be bound", field="metadata")
    return parsed
