"""Where a proof takes place: a local runtime with a stand-in for the model, and what arrives there.

Every inference call that arrives is noted, with what its headers claim and whose it is by its content.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from types import TracebackType

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.proof.markers import markers_of
from aws_rft_sdk.proof.standin import StandIn
from aws_rft_sdk.runtime import Fault, Faults, LocalRuntime
from aws_rft_sdk.settings import ENDPOINT_VARIABLE, overridden
from aws_rft_sdk.types import RolloutRequest, Trajectory
from aws_rft_sdk.wire import JOB_ARN_HEADERS, SPAN_HEADER, TRAJECTORY_HEADERS

UNSIGNED = "unsigned"

_RETRY_COUNT_HEADER = b"x-stainless-retry-count"
"""Sent by OpenAI clients: how many times this very call was sent before."""

THROTTLED = Fault("status", status=429, retry_after_seconds=0)
"""Turned away before it reached the policy: may be sent again."""
UNAVAILABLE = Fault("status", status=503, retry_after_seconds=0)
"""The same."""
ANSWER_LOST = Fault("status", status=500, after=True)
"""Sampled and recorded, and the answer never arrives: must not be sent again."""


class Fate(str, Enum):
    """What became of a request."""

    SERVED = "served"
    """It was handed to the policy."""
    TURNED_AWAY = "turned away"
    """It was answered with an injected 429 or 503 before it reached the policy."""
    ANSWER_LOST = "answer lost"
    """It reached the policy and was recorded, and an injected 500 took the place of the answer."""


@dataclass(frozen=True)
class Claim:
    """What the headers of a request say."""

    job_arn: str | None = None
    trajectory_id: str | None = None
    span_id: str | None = None
    agrees: bool = True
    """Whether the headers of both generations of the contract say the same."""

    @property
    def is_empty(self) -> bool:
        """Whether there is no header at all."""
        return self.job_arn is None and self.trajectory_id is None and self.span_id is None

    @property
    def is_complete(self) -> bool:
        """Whether a runtime could tell the trajectory."""
        return self.job_arn is not None and self.trajectory_id is not None


@dataclass(frozen=True)
class Arrival:
    """One inference request as it arrived."""

    claim: Claim
    markers: tuple[str, ...] = ()
    """Markers in the body; the last one is that of the rollout that it belongs to."""
    digest: str = ""
    """Equal for requests with equal bodies."""
    fate: Fate = Fate.SERVED
    resend: int = 0
    """How many times the client says that it sent this before."""
    follows_answer: bool = False
    """Whether the policy had answered a request with an equal body and an equal trajectory before it arrived."""
    in_flight: frozenset[str] = frozenset()
    """Trajectories of the rollouts that were in progress."""
    at: float = 0.0
    """When it arrived, by the monotonic clock."""


@dataclass(frozen=True)
class Probe:
    """One rollout that a proof started, or one call that it made outside any rollout."""

    marker: str
    """The word in its prompt; "" when the prompt could not take one."""
    job_arn: str | None = None
    """None outside a rollout."""
    trajectory_id: str | None = None
    """None outside a rollout."""
    kind: str = ""
    """What it does, for people."""


class Watch(Faults):
    """Sees every call before the runtime handles it, and makes the trouble that was ordered for it.

    Concurrency: safe from any thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._arrivals: list[Arrival] = []
        self._in_flight: set[str] = set()
        self._orders: dict[str, deque[Fault]] = {}
        self._answered: set[tuple[str, str | None]] = set()

    def order(self, marker: str, *faults: Fault) -> None:
        """Have the next requests with this marker meet these faults, one each."""
        with self._lock:
            self._orders[marker] = deque(faults)

    @contextmanager
    def in_progress(self, trajectory_id: str) -> Iterator[None]:
        """Count a rollout as in progress for the body of a `with`."""
        with self._lock:
            self._in_flight.add(trajectory_id)
        try:
            yield
        finally:
            with self._lock:
                self._in_flight.discard(trajectory_id)

    def answered(self, body: bytes, trajectory_id: str | None) -> None:
        """Note that the policy has answered a request."""
        with self._lock:
            self._answered.add((_digest(body), trajectory_id))

    def seen(self) -> list[Arrival]:
        """Return what arrived since the last `take`."""
        with self._lock:
            return list(self._arrivals)

    def take(self) -> list[Arrival]:
        """Return what arrived since the last time, in this order."""
        with self._lock:
            arrivals, self._arrivals = self._arrivals, []
        return arrivals

    def draw(self, route: str, headers: object, body: bytes) -> Fault | None:
        """Note an inference call; return the fault that was ordered for it."""
        if route != "inference":
            return None
        pairs: list[tuple[bytes, bytes]] = list(headers)  # type: ignore[call-overload] # pairs, as in the base class
        claim, markers, digest = read_claim(pairs), markers_of(body), _digest(body)
        trajectory_id = claim.trajectory_id if claim.is_complete else None
        with self._lock:
            orders = self._orders.get(markers[-1]) if markers else None
            fault = orders.popleft() if orders else None
            fate = Fate.SERVED if fault is None else Fate.ANSWER_LOST if fault.after else Fate.TURNED_AWAY
            self._arrivals.append(
                Arrival(
                    claim=claim,
                    markers=markers,
                    digest=digest,
                    fate=fate,
                    resend=_count(dict(pairs).get(_RETRY_COUNT_HEADER, b"")),
                    follows_answer=(digest, trajectory_id) in self._answered,
                    in_flight=frozenset(self._in_flight) if not markers else frozenset(),
                    at=time.monotonic(),
                )
            )
        return fault


_in_use = threading.Lock()


class Stage:
    """A watched runtime. Use it as a context manager, one at a time in a process: a proof changes what all threads use.

    It is lenient, because what is wrong is to be seen rather than refused, and does not look at signatures.

    Args:
        skip_tools: Tools that the stand-in does not call: names, or patterns with `*`.

    Raises:
        ConfigurationError: Entered while another one is in use.
    """

    def __init__(self, skip_tools: tuple[str, ...] = ()) -> None:
        self.watch = Watch()
        self.policy = StandIn(skip_tools, self.watch.answered)
        self.runtime = LocalRuntime(self.policy, strict=False, auth="none", faults=self.watch)

    def __enter__(self) -> Stage:
        if not _in_use.acquire(blocking=False):
            raise ConfigurationError("another proof is running in this process; start this one when that one is over")
        try:
            self.runtime.start()
        except BaseException:
            _in_use.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.runtime.stop()
        finally:
            _in_use.release()

    def start_rollout(self, prompt: str, marker: str, kind: str) -> tuple[dict[str, object], Probe]:
        """Create a trajectory; return the payload for its agent, and the rollout for the record."""
        payload = dict(self.runtime.new_rollout(prompt))
        request = RolloutRequest.parse(payload)
        if request is None:
            raise ConfigurationError("the runtime made a payload without rollout metadata")
        return payload, Probe(marker, request.job_arn, request.trajectory_id, kind)

    def trajectory(self, run: Probe) -> Trajectory:
        """Return the runtime's record of a rollout."""
        return self.runtime.trajectory(run.trajectory_id or "")

    @contextmanager
    def environment(self) -> Iterator[None]:
        """Lead OpenAI clients that name no address to this runtime, for the body of a `with`.

        A model that is built without one, at import for example, would otherwise talk to its provider, for money.
        """
        values = {
            ENDPOINT_VARIABLE: self.runtime.endpoint,
            "OPENAI_BASE_URL": f"{self.runtime.endpoint}/v1",
            "OPENAI_API_BASE": f"{self.runtime.endpoint}/v1",
            "OPENAI_API_KEY": UNSIGNED,
        }
        with overridden(values):
            yield


def read_claim(headers: list[tuple[bytes, bytes]]) -> Claim:
    """Return what headers say about job, trajectory and span, in the spellings of both generations."""
    jobs, trajectories = _values(headers, JOB_ARN_HEADERS), _values(headers, TRAJECTORY_HEADERS)
    spans = _values(headers, (SPAN_HEADER,))
    return Claim(
        job_arn=jobs[0] if jobs else None,
        trajectory_id=trajectories[0] if trajectories else None,
        span_id=spans[0] if spans else None,
        agrees=max(len(set(jobs)), len(set(trajectories)), len(set(spans))) <= 1,
    )


def _values(headers: list[tuple[bytes, bytes]], names: tuple[str, ...]) -> list[str]:
    wanted = {name.lower().encode() for name in names}
    return [value.decode("latin-1") for name, value in headers if name.lower() in wanted and value]


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _count(value: bytes) -> int:
    return int(value) if value.isdigit() else 0
