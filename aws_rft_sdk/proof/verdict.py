"""Judges a proof: a pure function of the rollouts that were run, the requests that arrived, and the calls of models."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from aws_rft_sdk.proof.stage import Arrival, Fate, Probe


@dataclass(frozen=True)
class ProbeOutcome:
    """How one rollout ended."""

    run: Probe
    error: str | None = None
    """Type and message of what the handler raised, None when it returned."""
    error_type: str | None = None
    """Name of its class."""
    is_bound: bool = True
    """Whether the handler made this the rollout in progress."""
    is_reported: bool = True
    """Whether the runtime has the right reward, or knows of the end of a rollout that raised."""
    expects_failure: bool = False
    """Whether it was given trouble that it may fail over."""
    hung_at: str | None = None
    """Where it stood at its deadline, "" when that cannot be told; None when it was over by then."""


@dataclass
class ModelCall:
    """One call of a Strands model inside a rollout, whoever made it. The fields after `began` are set as it goes on."""

    run: Probe | None
    """None where it cannot be told: in a thread that was there before the rollout."""
    agent: str | None
    """Name of the agent that made it, None for none."""
    provider: str
    """Class of the model. Of a model that asks another one, that other one's; so is its id."""
    model_id: str | None
    span_id: str
    """What a turn that this call makes carries as its span id."""
    knows_rollout: bool
    """Whether it was made where `RFTContext` has the rollout."""
    where: str
    """The nearest line of the user's, "" for none."""
    began: float
    ended: float = math.inf
    is_allowed: bool = False
    """Whether the user has said that this model may be asked."""
    is_turn: bool = False
    """Whether a turn of the rollout was begun for it."""
    raised: bool = False


class HostCall(NamedTuple):
    """A host that was called inside a rollout, and by whom as far as it can be told."""

    host: str
    """With its port where it is no name."""
    is_refused: bool
    """Whether it is a model provider, and no connection was made."""
    who: str
    """Tool and agent, "" when neither is known."""
    where: str
    """The nearest line of the user's, "" when the call came from a thread without one."""


@dataclass(frozen=True)
class Reach:
    """What the rollouts of a proof reached, and what not. Names in alphabetical order."""

    tools: tuple[str, ...] = ()
    missed_tools: tuple[str, ...] = ()
    """Offered to the model, and never run."""
    skipped_tools: tuple[str, ...] = ()
    """Not called because the user has said so."""
    failed_tools: tuple[str, ...] = ()
    """They ran, and never came to a good end."""
    agents: tuple[str, ...] = ()
    missed_agents: tuple[str, ...] = ()
    """Made, and never run; with the place that makes them."""
    skipped_agents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What the requests say. All sequences are in the order of arrival."""

    requests: int = 0
    """Inference requests that arrived."""
    rollout_requests: int = 0
    """Those that are not known to be outside any rollout."""
    turns: int = 0
    """Requests that reached the policy."""
    wrong: tuple[Arrival, ...] = ()
    """Requests under another rollout's trajectory or job, or whose headers contradict each other."""
    untracked: tuple[Arrival, ...] = ()
    """Requests of a rollout that do not say which."""
    stray: tuple[Arrival, ...] = ()
    """Requests outside any rollout that carry headers of one."""
    duplicates: tuple[Arrival, ...] = ()
    """Requests that repeat one that the policy may have answered already."""
    reused_spans: tuple[Arrival, ...] = ()
    """Requests under a span id that was used for another request of the same trajectory."""
    shared: tuple[Arrival, ...] = ()
    """Requests whose conversation holds prompts of several rollouts."""
    untracked_by: tuple[ModelCall | None, ...] = ()
    """The calls that made the untracked requests, None where that cannot be told."""
    foreign: tuple[ModelCall, ...] = ()
    """Calls of models inside rollouts whose request never came here: they went to another model."""
    unproven: tuple[Arrival, ...] = ()
    """Requests of which nobody can tell whose they are: no marker arrived, and several rollouts were in progress.
    Nothing else speaks against them."""

    @property
    def is_clean(self) -> bool:
        """Whether each turn was recorded once, under its own trajectory, and nothing outside a rollout."""
        return not (self.wrong or self.untracked or self.stray or self.duplicates or self.foreign)


def owner_of(arrival: Arrival, runs: dict[str, Probe], by_trajectory: dict[str, Probe]) -> Probe | None:
    """Return whose a request is by its body; else by being the only rollout in progress; else None."""
    if arrival.markers:
        return runs.get(arrival.markers[-1])
    if len(arrival.in_flight) == 1:
        return by_trajectory.get(next(iter(arrival.in_flight)))
    return None


def judge(runs: Iterable[Probe], arrivals: Sequence[Arrival], calls: Sequence[ModelCall] = ()) -> Verdict:
    """Compare what each request claims with whose it is, and each call of a model with what arrived.

    Args:
        runs: All that the proof started.
        arrivals: All requests, in the order of arrival.
        calls: All calls of models inside rollouts, in order of beginning.
    """
    known = list(runs)
    by_marker = {run.marker: run for run in known if run.marker}
    by_trajectory = {run.trajectory_id: run for run in known if run.trajectory_id is not None}
    reused = _reused_spans(arrivals)
    found: dict[str, list[Arrival]] = defaultdict(list)
    outside = 0
    owners = [owner_of(arrival, by_marker, by_trajectory) for arrival in arrivals]
    callers, foreign = _match(arrivals, owners, calls)
    for arrival, owner in zip(arrivals, owners, strict=True):
        outside += owner is not None and owner.trajectory_id is None
        fault = _fault_without_owner(arrival, reused) if owner is None else _fault(arrival, owner)
        if fault is not None:
            found[fault].append(arrival)
        if len(arrival.markers) > 1:
            found["shared"].append(arrival)
    return Verdict(
        requests=len(arrivals),
        rollout_requests=len(arrivals) - outside,
        turns=sum(arrival.fate is not Fate.TURNED_AWAY for arrival in arrivals),
        wrong=tuple(found["wrong"]),
        untracked=tuple(found["untracked"]),
        untracked_by=tuple(callers.get(id(arrival)) for arrival in found["untracked"]),
        foreign=tuple(call for call in foreign if not call.is_allowed),
        stray=tuple(found["stray"]),
        duplicates=tuple(_duplicates(arrivals)),
        reused_spans=tuple(arrival for arrival in arrivals if id(arrival) in reused),
        shared=tuple(found["shared"]),
        unproven=tuple(found["unproven"]),
    )


def _match(
    arrivals: Sequence[Arrival], owners: Sequence[Probe | None], calls: Sequence[ModelCall]
) -> tuple[dict[int, ModelCall], list[ModelCall]]:
    """Return the call of each request, by its `id`, and the calls that no request came from.

    A turn carries the span id of its call. A request under another span id, or under none, was made by hand or by a
    model that knows no rollout: it is taken for that of a call of the same rollout which was under way. Of several such
    calls, that one which no request explains yet and which ended first: so each call gets a request, if it can.
    """
    by_span = {call.span_id: call for call in calls}
    explained = {arrival.claim.span_id for arrival in arrivals if arrival.claim.span_id in by_span}
    others = [call for call in calls if call.span_id not in explained]
    callers: dict[int, ModelCall] = {}
    for arrival, owner in zip(arrivals, owners, strict=True):
        call = by_span.get(arrival.claim.span_id or "")
        if call is None:
            fits = (call for call in others if _may_come_from(call, arrival, owner))
            call = min(fits, key=lambda call: (call.span_id in explained, call.ended), default=None)
        if call is not None:
            callers[id(arrival)] = call
            explained.add(call.span_id)
    # A turn that raised without a request failed before it was sent.
    silent = [call for call in others if call.span_id not in explained and not (call.is_turn and call.raised)]
    return callers, silent


def _may_come_from(call: ModelCall, arrival: Arrival, owner: Probe | None) -> bool:
    return (owner is None or call.run is None or owner == call.run) and call.began <= arrival.at <= call.ended


def _fault(arrival: Arrival, owner: Probe) -> str | None:
    claim = arrival.claim
    if owner.trajectory_id is None:
        return None if claim.is_empty else "stray"
    if not claim.agrees:
        return "wrong"
    if not claim.is_complete:
        return "untracked"
    is_right = claim.trajectory_id == owner.trajectory_id and claim.job_arn == owner.job_arn
    return None if is_right else "wrong"


def _fault_without_owner(arrival: Arrival, reused: set[int]) -> str | None:
    claim = arrival.claim
    if not arrival.in_flight:
        return None if claim.is_empty else "stray"
    if not claim.agrees:
        return "wrong"
    if not claim.is_complete:
        return "untracked"
    # The headers of a rollout that is over, or headers that were used for another request already.
    if claim.trajectory_id not in arrival.in_flight or id(arrival) in reused:
        return "wrong"
    return "unproven"


def _reused_spans(arrivals: Sequence[Arrival]) -> set[int]:
    """Return the ids of the requests under a span id that was used for another body before."""
    first: dict[tuple[str | None, str], str] = {}
    reused = set()
    for arrival in arrivals:
        if arrival.claim.span_id is not None:
            digest = first.setdefault((arrival.claim.trajectory_id, arrival.claim.span_id), arrival.digest)
            if digest != arrival.digest:
                reused.add(id(arrival))
    return reused


def _duplicates(arrivals: Sequence[Arrival]) -> list[Arrival]:
    """Return the requests that repeat one which reached the policy before.

    Equal bodies alone prove nothing, since an agent may ask the same thing twice. A repetition is known by its span id,
    by the client's own count, or by following a request whose answer was lost.
    """
    before: dict[tuple[str, str], list[Arrival]] = defaultdict(list)
    found = []
    for arrival in arrivals:
        if arrival.fate is Fate.TURNED_AWAY or not arrival.claim.is_complete:
            continue  # recorded nowhere
        whose = arrival.markers[-1] if arrival.markers else arrival.claim.trajectory_id or ""
        sampled = before[whose, arrival.digest]
        if any(_repeats(arrival, earlier) for earlier in sampled):
            found.append(arrival)
        sampled.append(arrival)
    return found


def _repeats(arrival: Arrival, earlier: Arrival) -> bool:
    if not arrival.follows_answer:
        return False  # the earlier one was refused; or it is under way, and this is another question in the same words
    same_span = arrival.claim.span_id is not None and arrival.claim.span_id == earlier.claim.span_id
    return same_span or arrival.resend > 0 or earlier.fate is Fate.ANSWER_LOST
