"""The rollout in progress: which one it is, the headers of its inference calls, and how many calls were made.

One `ContextVar` holds it, so it is private to each thread and each task, survives the worker thread in which Strands
runs a synchronous agent call (a copied context), nests, and is restored by token rather than cleared.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar

from aws_rft_sdk import telemetry, wire
from aws_rft_sdk._carry import carry
from aws_rft_sdk._decision import CallState, Completion, Decision, Rewards
from aws_rft_sdk._fork import in_forked_child
from aws_rft_sdk.errors import NoActiveRolloutError, PayloadError, RewardError
from aws_rft_sdk.settings import Auth
from aws_rft_sdk.types import InferenceParams, RolloutMetadata, RolloutRequest

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

Source = RolloutRequest | RolloutMetadata | Mapping[str, Any]
"""What names a rollout: a request, a payload in any spelling, or the metadata of one."""

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


class TurnCount(NamedTuple):
    """How many inference calls a rollout has begun, and what became of them. True if any of them is a turn."""

    begun: int
    """All calls, also those under way and those that the runtime turned away."""
    answered: int = 0
    """Calls whose answer arrived whole."""
    failed: int = 0
    """Calls that ended without a whole answer."""
    unsure: int = 0
    """The failed calls that may have been sampled all the same."""

    @property
    def tracked(self) -> int:
        """Turns, as the service counts them: the calls that were sampled or may have been. All but the refused ones."""
        return self.begun - self.failed + self.unsure

    def __bool__(self) -> bool:
        return self.tracked > 0


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


class ClientDefaults(NamedTuple):
    """What the feedback clients of a rollout use for arguments that they are not given. The environment comes after."""

    outbox: Any = None
    """A file, or an `Outbox`, which this module does not know; None for no default."""
    auth: Auth | None = None


_NO_DEFAULTS = ClientDefaults()


class RFTContext:
    """One rollout in progress.

    `RFTContext.current()` finds it from anywhere below the handler. Safe to read from several threads and tasks; each
    of them sees the rollout that it was started in.
    """

    __slots__ = ("_turns", "client_defaults", "foreign_calls", "holder", "outcome", "own_span_id", "request")

    request: RolloutRequest
    holder: Holder | None
    """Set by the first feedback client that acts on the trajectory, and used by all of them."""
    outcome: str | None
    """How its handler ended: "completed", "deferred", "failed" (and reported), "unreported"; None before that."""

    foreign_calls: int
    """Calls of a `runtime_model` that went to the production model while this rollout was in progress, whoever made
    them. In a process that serves production too they may have nothing to do with the rollout."""

    own_span_id: str | None
    """OpenTelemetry's id of the span of the rollout as a whole, which is no turn's; None without one."""

    def __init__(self, request: RolloutRequest, client_defaults: ClientDefaults = _NO_DEFAULTS) -> None:
        """Begin a rollout with what its handler says about feedback clients."""
        self.request = request
        self.client_defaults = client_defaults
        self.holder = None
        self.outcome = None
        self.foreign_calls = 0
        self.own_span_id = None
        self._turns: dict[str, TurnState] = {}  # by span id, in order of beginning

    def __repr__(self) -> str:
        return f"<RFTContext trajectory_id={self.trajectory_id!r} turns={self.turns.begun}>"

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
        """The inference calls so far: `.begun`, `.answered`, `.failed`, `.unsure`; and `.tracked`, how many are turns.

        Calls made with headers by hand count as begun and tracked: nobody told us how they ended.
        """
        states = list(self.turn_states.values())
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
        with _lock:
            return dict(self._turns)

    def check_turn_rewards(self, rewards: Sequence[float]) -> None:
        """Check that a list of rewards can belong to the turns of this rollout.

        One reward is for the trajectory as a whole and always fits. More must be one for each turn. Refused calls are
        no turns. A call that failed and may have been sampled may be left out, since nobody knows.

        Raises:
            RewardError: The number of rewards fits no count of turns. The message lists the calls.
        """
        turns = self.turns
        fewest, most = turns.begun - turns.failed, turns.tracked
        if len(rewards) == 1 or fewest <= len(rewards) <= most:
            return
        states = self.turn_states.items()
        listed = ", ".join(f"{n}: {state.value} ({span_id})" for n, (span_id, state) in enumerate(states))
        raise RewardError(
            f"trajectory {self.trajectory_id} has {len(rewards)} rewards for {most} turns; give one for each turn, or "
            f"one for all. Its inference calls are {listed or 'none'}"
        )

    def headers(self) -> dict[str, str]:
        """Begin a turn and return the headers of its inference call, as a new dict.

        Every call begins another turn with a new span id. Call it once for each request, and reuse the result when you
        retry that request. The span id is OpenTelemetry's when a span is recording that has not been used for a turn
        of this rollout yet, otherwise a random UUID.

        Raises:
            NoActiveRolloutError: The rollout is over and reported, so the service takes no more turns.
        """
        return self.begin_turn().headers

    def begin_turn(self) -> TurnHeaders:
        """Like `headers`, for adapters that also report the end with `end_turn`."""
        if self.outcome in ("completed", "failed"):
            late = (
                f"trajectory {self.trajectory_id} takes no more turns: its handler has ended and was reported. "
                "Wait for threads, tasks and pools that call the model before the handler returns, or decorate the "
                "handler with reward='deferred'"
            )
            logger.error("%s", late)  # work that is left in a pool often has nobody who looks at its error
            raise NoActiveRolloutError(late)
        recording = telemetry.recording_span_id()
        with _lock:
            usable = recording is not None and recording != self.own_span_id and recording not in self._turns
            span_id = recording if recording is not None and usable else str(uuid.uuid4())
            self._turns[span_id] = TurnState.BEGUN
        headers = wire.inference_headers(self.job_arn, self.trajectory_id, span_id)
        telemetry.inject(headers)
        return TurnHeaders(span_id, headers)

    def end_turn(self, span_id: str, state: TurnState) -> None:
        """Note what has become of a turn."""
        with _lock:
            self._turns[span_id] = state

    def note_foreign_call(self) -> int:
        """Count a call that went to the production model. Returns how many there were."""
        with _lock:
            self.foreign_calls += 1
            return self.foreign_calls

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
    def bind(request: Source | RFTContext) -> Iterator[RFTContext]:
        """Make a rollout the current one for the body of a `with`, then restore what was current before.

        For workers that do not use `rft_handler`; it reports nothing. If a rollout of the same job and trajectory is in
        progress in this process, its context is taken up, so that turns are counted there. That holds inside its
        handler and in threads that do not know it. Sampling parameters and endpoint stay those of the rollout in
        progress. Any other rollout nests. Not for the body of a generator, where the rollout would leak into the
        consumer of the items.

        Args:
            request: A request, a payload in any spelling, the metadata of one, or a context to take up again.

        Raises:
            PayloadError: A payload without rollout metadata, or a malformed one.
        """
        with active(request if isinstance(request, RFTContext) else request_of(request)) as context:
            token = _current.set(context)
            try:
                yield context
            finally:
                _current.reset(token)

    @staticmethod
    def carry(fn: Callable[P, R]) -> Callable[P, R]:
        """Return `fn` so that it runs within the current rollout wherever it is called.

        For threads and pools of your own: `pool.submit(RFTContext.carry(work), item)`. All context variables travel,
        OpenTelemetry's among them. What `fn` returns runs within the rollout as well if it is a coroutine, another
        awaitable or a generator of either kind. The result may be called many times, also at once. Outside a rollout
        it changes nothing that `fn` could notice except that.

        Wait for the work before the handler returns: once the rollout is reported, an inference call raises
        `NoActiveRolloutError`.
        """
        return carry(fn)


# --- the rollouts in progress in this process ------------------------------------------------------------------------

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
_lock = threading.Lock()
"""Guards `_active` and the turns of all contexts. Held for microseconds."""


@contextmanager
def active(rollout: RFTContext | RolloutRequest) -> Iterator[RFTContext]:
    """Make a rollout known to feedback clients and to `bind` in any thread for the body of a `with`.

    Args:
        rollout: A context, or a request: then the context of its trajectory that is in progress, else a new one.
    """
    key = (rollout.job_arn, rollout.trajectory_id)
    with _lock:
        context = rollout if isinstance(rollout, RFTContext) else _in_progress(key) or RFTContext(rollout)
        others = _active.setdefault(key, [])
        if context.holder is None:
            context.holder = next((other.holder for other in others), None)
        others.append(context)
    collected = _collector.get()
    if collected is not None and context not in collected:
        collected.append(context)
    try:
        yield context
    finally:
        with _lock:
            contexts = _active.get(key, [])
            if context in contexts:  # unless this is a forked child, which began with none
                contexts.remove(context)
            if not contexts:
                _active.pop(key, None)


def _in_progress(key: tuple[str, str]) -> RFTContext | None:
    contexts = [context for context in _active.get(key, ()) if context.outcome is None]
    current = _current.get()
    return current if current in contexts else next(reversed(contexts), None)


def rollouts_in_progress() -> list[RFTContext]:
    """Return the rollouts in progress in this process, in any thread, each once. A new list."""
    with _lock:
        return list(dict.fromkeys(context for contexts in _active.values() for context in contexts))


def share_holder(metadata: RolloutMetadata, own: Holder) -> Holder:
    """Return what holds the decision about a trajectory, for a client that has `own` for it.

    During a rollout it is the same one for all clients, however often the trajectory was delivered to this process. One
    that outlives the process goes first.
    """
    with _lock:
        contexts = _active.get((metadata.job_arn, metadata.trajectory_id), [])
        known = [*(context.holder for context in contexts if context.holder is not None), own]
        held = next((holder for holder in known if holder.durable), known[0])
        for context in contexts:
            context.holder = held
    return held


def client_defaults(metadata: RolloutMetadata) -> ClientDefaults:
    """Return what the handler says about feedback clients of a trajectory that is in progress, else nothing."""
    with _lock:
        context = _in_progress((metadata.job_arn, metadata.trajectory_id))
    return _NO_DEFAULTS if context is None else context.client_defaults


def request_of(source: Source) -> RolloutRequest:
    """Read a rollout request from whatever names a rollout.

    Returns:
        The request. Metadata alone make one without a prompt and without sampling parameters.

    Raises:
        PayloadError: There is neither a job ARN nor a trajectory id, or one of the fields is malformed.
    """
    request = RolloutRequest.parse(source) or RolloutRequest.parse({"metadata": source})
    if request is None:
        raise PayloadError("metadata is missing: there is neither a job ARN nor a trajectory id", field="metadata")
    return request


@in_forked_child
def _forget_after_fork() -> None:
    # The rollouts of the parent go on there; here nobody would release its lock.
    global _lock
    _lock = threading.Lock()
    _active.clear()
