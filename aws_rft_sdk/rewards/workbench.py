"""The reward bench: scores what is expected, resists adversaries, is deterministic, fast, and carries a signal."""

from __future__ import annotations

import math
import pickle
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from aws_rft_sdk._checks import check_number
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards._alarm import OutOfTimeError, ended_after
from aws_rft_sdk.rewards._checks import check_reward
from aws_rft_sdk.rewards.adversaries import SANITY_SENTENCE, attacks, find_leak
from aws_rft_sdk.rewards.cases import Case
from aws_rft_sdk.rewards.rollout import AnyReward, Component, RewardResult, Rollout, evaluate_group, is_group_reward

T = TypeVar("T")

_TOLERANCE = 1e-9
_HANGING = 10
"""A call that takes so many times the longest time allowed is ended, in the main thread."""
_ATTACKED_ENORMOUSLY = 1
"""Groups that are attacked with a million characters; more would only take longer."""


@dataclass(frozen=True)
class CaseScore:
    """What a case got."""

    line: int
    group: str
    kind: str | None
    expected: str | None
    """As it stands in the file, None when the reward is not checked."""
    reward: float | None
    """None when it cannot be judged, or when the reward raised."""
    problem: str | None
    """What is wrong, None when nothing is."""


@dataclass(frozen=True)
class AdversaryScore:
    """The best that an adversary reached, over all groups."""

    adversary: str
    attempts: int
    best: float | None
    """None when no attempt could be judged."""
    group: str
    """Where it reached that."""
    problem: str | None


@dataclass(frozen=True)
class ComponentSignal:
    """What a component tells a trainer that compares rollouts of one group."""

    name: str
    counts: bool
    mean_std_within_groups: float
    constant_groups: int
    groups: int
    """Groups with at least two cases that have the component."""
    pairs: int
    """Pairs of a success and a failed try of one group (of all groups, if no group has both)."""
    inverted_pairs: int
    """Those in which the failed try has the higher value."""
    agreeing_pairs: int

    @property
    def has_no_signal(self) -> bool:
        """Whether it is the same for all rollouts of every group."""
        return self.groups > 0 and self.constant_groups == self.groups

    @property
    def disagrees(self) -> bool:
        """Whether it prefers failed tries more often than successes."""
        return self.inverted_pairs > self.agreeing_pairs


@dataclass(frozen=True)
class BenchReport:
    """All findings. `breaches` are what has to be repaired, `notes` what has to be known."""

    cases: tuple[CaseScore, ...]
    adversaries: tuple[AdversaryScore, ...]
    components: tuple[ComponentSignal, ...]
    low: float | None
    """Lowest reward of all calls; None when nothing could be judged."""
    high: float | None
    mean_call_seconds: float
    longest_call_seconds: float
    shaping: float
    """How far an adversary may rise above an honest failed try."""
    breaches: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        signals = [
            {**asdict(signal), "has_no_signal": signal.has_no_signal, "disagrees": signal.disagrees}
            for signal in self.components
        ]
        return {**asdict(self), "components": signals}


@dataclass
class _Bench:
    reward: AnyReward
    cases: Sequence[Case]
    max_seconds: float
    shaping: float = 0.0
    limits: tuple[float, float] | None = None
    breaches: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)

    def call(self, rollout: Rollout, case: Case) -> tuple[RewardResult | None, str | None]:
        """Return a result and what is wrong with the call: it raised, took too long, or left the range.

        A group reward gets the rollout together with the other cases of the case's group.
        """
        others = self.cases if is_group_reward(self.reward) else ()
        beside = [item.rollout for item in others if item.group == case.group and item.rollout is not rollout]
        limit = max(_HANGING * self.max_seconds, 1.0)
        for _ in range(2):  # a first call may import what it needs: only a call that stays slow is a breach
            began = time.perf_counter()
            try:
                with ended_after(limit):
                    result = evaluate_group(self.reward, [*beside, rollout])[-1]
            except OutOfTimeError:
                return None, f"was ended after {limit:g} s"
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a reward that ends the process would end the bench as a success
                return None, f"raised {type(error).__name__}: {error!s:.200}"
            finally:
                self.seconds.append(time.perf_counter() - began)
            if self.seconds[-1] <= self.max_seconds:
                break
        problem = None
        if self.seconds[-1] > self.max_seconds:
            problem = f"took {self.seconds[-1]:.2f} s, more than {self.max_seconds:g} s"
        if result.reward is not None:
            self.rewards.append(result.reward)
            if self.limits and not self.limits[0] - _TOLERANCE <= result.reward <= self.limits[1] + _TOLERANCE:
                problem = f"{result.reward:g} is outside of the range {self.limits[0]:g} to {self.limits[1]:g}"
        return result, problem


def bench(
    reward: AnyReward,
    cases: Sequence[Case],
    *,
    shaping: float | None = None,
    limits: tuple[float, float] | None = None,
    repeat: int = 3,
    max_seconds: float = 1.0,
) -> BenchReport:
    """Test a reward with cases and with adversaries made from them.

    A breach is a reward that differs from the expected one, leaves the range, differs between calls, raises, takes too
    long, judges no case at all, or cannot be pickled. So is a success that is not above a failed try of its group, or
    is no longer paid when a sentence follows that changes nothing; an adversary that reaches the lowest success of its
    prompt, or is above the lowest honest failed try by more than the shaping; a prompt that shows its ground truth.

    Args:
        reward: The reward. A group reward gets each case, and each adversary, with the other cases of its group.
        cases: Without a success and a failed try, some rules cannot be checked, which is noted.
        shaping: How far an adversary may rise above an honest failed try. None: the reward's `shaping_bound`, if it has
            one (as `DominantOutcome` has), else 0.
        limits: The range that rewards must stay in; None for any.
        repeat: How often each case is scored.
        max_seconds: Longest time that one call may take. A slower call is made again. After ten times as long it is
            ended.

    Raises:
        ConfigurationError: There is no case, a figure is out of range, or `reward` is no reward.
    """
    check_reward(reward)
    if not cases:
        raise ConfigurationError("a reward is tested with at least one case")
    allowed = getattr(reward, "shaping_bound", 0.0) if shaping is None else shaping
    check_number("shaping", allowed, low=0)
    for limit in limits or ():
        check_number("a limit", limit)
    if limits and not limits[0] <= limits[1]:
        raise ConfigurationError(f"limits must be (low, high), not {limits}")
    check_number("repeat", repeat, low=1, whole=True)
    check_number("max_seconds", max_seconds, low=0)
    run = _Bench(reward, cases, max_seconds, float(allowed), limits)
    results, scores = _score_cases(run)
    if not run.rewards:
        run.breaches.append("the reward judges no case at all: each gets None")
    _check_order(run, scores)
    _check_same(run, results, repeat)
    adversaries = _attack(run, scores)
    components = tuple(_signals(cases, results))
    return BenchReport(
        cases=tuple(scores),
        adversaries=adversaries,
        components=components,
        low=min(run.rewards, default=None),
        high=max(run.rewards, default=None),
        mean_call_seconds=statistics.fmean(run.seconds),
        longest_call_seconds=max(run.seconds),
        shaping=run.shaping,
        breaches=tuple(dict.fromkeys(run.breaches)),
        notes=tuple(_notes(cases, components)),
    )


def _score_cases(run: _Bench) -> tuple[list[RewardResult | None], list[CaseScore]]:
    results, scores = [], []
    for case in run.cases:
        result, problem = run.call(case.rollout, case)
        reward = result.reward if result else None
        if result is not None and case.expected is not None and not case.expected.allows(reward):
            problem = f"{_shown(reward)} instead of {case.expected}"
        if problem:
            run.breaches.append(f"line {case.line}: {problem}")
        expected = None if case.expected is None else str(case.expected)
        results.append(result)
        scores.append(CaseScore(case.line, case.group, case.kind, expected, reward, problem))
    return results, scores


def _check_order(run: _Bench, scores: Iterable[CaseScore]) -> None:
    for group in _grouped(scores, lambda score: score.group).values():
        wins, losses = _rewards("success", group), _rewards("failure", group)
        if wins and losses and min(wins)[0] <= max(losses)[0]:
            (win, win_line), (loss, loss_line) = min(wins), max(losses)
            run.breaches.append(
                f"line {win_line}: a success gets {win:g}, not more than the failed try of line {loss_line} with "
                f"{loss:g}"
            )


def _check_same(run: _Bench, results: Sequence[RewardResult | None], repeat: int) -> None:
    """Score all cases again, and with a pickled copy: a reward keeps no state and survives the way to a process."""
    rewards = [run.reward] * (repeat - 1)
    try:
        rewards.append(pickle.loads(pickle.dumps(run.reward)))  # noqa: S301 - our own bytes
    except Exception as error:
        run.breaches.append(f"the reward cannot be pickled: {error!s:.200}")
    for reward in rewards:
        again = _Bench(reward, run.cases, run.max_seconds)
        for case, first in zip(run.cases, results, strict=True):
            if again.call(case.rollout, case)[0] != first:
                run.breaches.append(f"line {case.line}: the same rollout gets different rewards")


def _attack(run: _Bench, scores: Sequence[CaseScore]) -> tuple[AdversaryScore, ...]:
    """Attack each group once, and its success where there is one: its answer shows the format."""
    attempts: list[AdversaryScore] = []
    of_cases = list(zip(run.cases, scores, strict=True))
    for number, pairs in enumerate(_grouped(of_cases, lambda pair: pair[0].group).values()):
        case, own = next((pair for pair in pairs if pair[0].kind == "success"), pairs[0])
        group = [score for _, score in pairs]
        if find_leak(case):
            run.breaches.append(f"line {case.line}: the prompt shows its ground truth")
        wins = _rewards("success", group) or _rewards("success", scores)
        losses = _rewards("failure", group) or _rewards("failure", scores)
        for adversary, rollout in attacks(case, enormous=number < _ATTACKED_ENORMOUSLY):
            result, problem = run.call(rollout, case)
            reward = result.reward if result else None
            if adversary == SANITY_SENTENCE:
                problem = problem or _unpaid(reward, own.reward, losses, run.shaping)
            elif reward is not None and wins and reward >= min(wins)[0] - _TOLERANCE:
                problem = f"gets {reward:g}, as much as an honest success ({min(wins)[0]:g})"
            elif reward is not None and losses and reward > min(losses)[0] + run.shaping + _TOLERANCE:
                problem = f"gets {reward:g}, more than an honest failed try ({min(losses)[0]:g}) and the shaping"
            attempts.append(AdversaryScore(adversary, 1, reward, case.group, problem))
            if problem:
                run.breaches.append(f"{adversary}, group {case.group[:60]!r}: {problem}")
    return tuple(map(_summary, _grouped(attempts, lambda attempt: attempt.adversary).values()))


def _unpaid(reward: float | None, own: float | None, losses: Sequence[tuple[float, int]], shaping: float) -> str | None:
    """Return what is wrong with the reward of an honest success that goes on with a sentence; None if it is paid."""
    if own is None:
        return None
    is_paid = reward is not None and (reward > max(losses)[0] if losses else reward >= own - 2 * shaping - _TOLERANCE)
    return None if is_paid else f"gets {_shown(reward)}, and without the sentence {own:g}"


def _summary(attempts: Sequence[AdversaryScore]) -> AdversaryScore:
    best = max(attempts, key=lambda attempt: -math.inf if attempt.best is None else attempt.best)
    problem = next((attempt.problem for attempt in attempts if attempt.problem), None)
    return replace(best, attempts=len(attempts), problem=problem)


def _signals(cases: Sequence[Case], results: Sequence[RewardResult | None]) -> Iterator[ComponentSignal]:
    """Yield what the reward as a whole and each of its components tell."""
    values: dict[str, list[tuple[Case, float]]] = {"reward": []}
    counting = {"reward": True}
    for case, result in zip(cases, results, strict=True):
        whole = () if result is None or result.reward is None else (Component("reward", result.reward),)
        for component in (*whole, *(result.components if result else ())):
            values.setdefault(component.name, []).append((case, component.value))
            counting[component.name] = component.counts
    for name, pairs in values.items():
        groups = _grouped(pairs, lambda pair: pair[0].group).values()
        spreads = [statistics.pstdev([value for _, value in group]) for group in groups if len(group) > 1]
        compared = [pair for group in groups for pair in _compared(group)] or _compared(pairs)
        yield ComponentSignal(
            name=name,
            counts=counting[name],
            mean_std_within_groups=statistics.fmean(spreads) if spreads else 0.0,
            constant_groups=sum(spread < _TOLERANCE for spread in spreads),
            groups=len(spreads),
            pairs=len(compared),
            inverted_pairs=sum(win < loss for win, loss in compared),
            agreeing_pairs=sum(win > loss for win, loss in compared),
        )


def _compared(group: Sequence[tuple[Case, float]]) -> list[tuple[float, float]]:
    wins = [value for case, value in group if case.kind == "success"]
    losses = [value for case, value in group if case.kind == "failure"]
    return [(win, loss) for win in wins for loss in losses]


def _notes(cases: Sequence[Case], components: Iterable[ComponentSignal]) -> Iterator[str]:
    for kind in ("success", "failure"):
        if not any(case.kind == kind for case in cases):
            yield f"no case is a {kind}, so that the rule about adversaries and it cannot be checked"
    for signal in components:
        if signal.has_no_signal:
            yield f"{signal.name} is constant within every group: it carries no signal"
        if signal.disagrees:
            yield f"{signal.name} prefers failed tries to successes"


def _grouped(items: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    groups: dict[str, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


def _rewards(kind: str, scores: Iterable[CaseScore]) -> list[tuple[float, int]]:
    """Return the rewards of one kind that could be judged, each with its line."""
    return [(score.reward, score.line) for score in scores if score.kind == kind and score.reward is not None]


def _shown(reward: float | None) -> str:
    return "null" if reward is None else f"{reward:g}"
