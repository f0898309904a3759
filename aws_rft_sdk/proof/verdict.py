"""Judges what arrived: a pure function of the rollouts that were run and the requests that were seen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aws_rft_sdk.proof.observer import Arrival, Fate


@dataclass(frozen=True)
class Run:
    """One rollout that a proof started, or one call that it made outside any rollout."""

    marker: str
    """The word in its prompt; "" when the prompt could not take one."""
    job_arn: str | None = None
    """None outside a rollout."""
    trajectory_id: str | None = None
    """None outside a rollout."""
    kind: str = ""
    """What it does, for people."""


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
    unproven: tuple[Arrival, ...] = ()
    """Requests of which nobody can tell whose they are: no marker arrived, and several rollouts were in progress.
    Nothing else speaks against them."""

    @property
    def is_clean(self) -> bool:
        """Whether each turn was recorded once, under its own trajectory, and nothing outside a rollout."""
        return not (self.wrong or self.untracked or self.stray or self.duplicates)


def owner_of(arrival: Arrival, runs: dict[str, Run], by_trajectory: dict[str, Run]) -> Run | None:
    """Return whose a request is by its body; else by being the only rollout in progress; else None."""
    if arrival.markers:
        return runs.get(arrival.markers[-1])
    if len(arrival.in_flight) == 1:
        return by_trajectory.get(next(iter(arrival.in_flight)))
    return None


def judge(runs: Iterable[Run], arrivals: Sequence[Arrival]) -> Verdict:
    """Compare what each request claims with whose it is.

    Args:
        runs: All that the proof started.
        arrivals: All requests, in the order of arrival.
    """
    known = list(runs)
    by_marker = {run.marker: run for run in known if run.marker}
    by_trajectory = {run.trajectory_id: run for run in known if run.trajectory_id is not None}
    reused = _reused_spans(arrivals)
    found: dict[str, list[Arrival]] = defaultdict(list)
    outside = 0
    for arrival in arrivals:
        owner = owner_of(arrival, by_marker, by_trajectory)
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
        stray=tuple(found["stray"]),
        duplicates=tuple(_duplicates(arrivals)),
        reused_spans=tuple(arrival for arrival in arrivals if id(arrival) in reused),
        shared=tuple(found["shared"]),
        unproven=tuple(found["unproven"]),
    )


def _fault(arrival: Arrival, owner: Run) -> str | None:
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
