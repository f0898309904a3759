"""The reward bench: scores what is expected, resists adversaries, is deterministic, fast, and carries a signal."""

from __future__ import annotations

import math
import pickle
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from aws_rft_sdk._checks import check_number
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards._alarm import OutOfTimeError, ended_after
from aws_rft_sdk.rewards._checks import check_reward
from aws_rft_sdk.rewards.adversaries import attacks, find_leak
from aws_rft_sdk.rewards.cases import Case
from aws_rft_sdk.rewards.rollout import Reward, RewardResult, Rollout, evaluate

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
    reward: Reward
    shaping: float
    limits: tuple[float, float] | None
    max_seconds: float
    breaches: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)

    def call(self, rollout: Rollout) -> tuple[RewardResult | None, str | None]:
        """Return a result and what is wrong with the call: it raised, took too long, or left the range."""
        limit = max(_HANGING * self.max_seconds, 1.0)
        began = time.perf_counter()
        try:
            with ended_after(limit):
                result = evaluate(self.reward, rollout)
        except OutOfTimeError:
            return None, f"was ended after {limit:g} s"
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a reward that ends the process would end the bench as a success
            return None, f"raised {type(error).__name__}: {error!s:.200}"
        finally:
            self.seconds.append(time.perf_counter() - began)
        problem = None
        if self.seconds[-1] > self.max_seconds:
            problem = f"took {self.seconds[-1]:.2f} s, more than {self.max_seconds:g} s"
        if result.reward is not None:
            self.rewards.append(result.reward)
            if self.limits and not self.limits[0] - _TOLERANCE <= result.reward <= self.limits[1] + _TOLERANCE:
                problem = f"{result.reward:g} is outside of the range {self.limits[0]:g} to {self.limits[1]:g}"
        return result, problem


def bench(
    reward: Reward,
    cases: Sequence[Case],
    *,
    shaping: float | None = None,
    limits: tuple[float, float] | None = None,
    repeat: int = 3,
    max_seconds: float = 1.0,
) -> BenchReport:
    """Test a reward with cases and with adversaries made from them.

    A breach is: a reward that differs from the expected one; a success that is not above a failed try of its group; an
    adversary that reaches the lowest success of its prompt (of the file, if the prompt has none), or is above the
    lowest honest failed try by more than the shaping; a reward that raises, leaves the range, takes too long, differs
    between calls, judges no case at all, or cannot be pickled; a prompt that shows its ground truth.

    Args:
        reward: The reward.
        cases: At least one success and one failed try, or the rules cannot be checked, which is noted.
        shaping: How far an adversary may rise above an honest failed try. None: the reward's `shaping_bound`, if it has
            one (as `DominantOutcome` has), else 0.
        limits: The range that rewards must stay in; None for any.
        repeat: How often each case is scored.
        max_seconds: Longest time that one call may take. One that takes ten times as long is ended.

    Raises:
        ConfigurationError: There is no case, a figure is out of range, or the reward is asynchronous, a class, or not
            callable.
    """
    check_reward(reward)
    if not cases:
        raise ConfigurationError("a reward is tested with at least one case")
    if shaping is not None:
        check_number("shaping", shaping, low=0)
    for limit in limits or ():
        check_number("a limit", limit)
    if limits and not limits[0] <= limits[1]:
        raise ConfigurationError(f"limits must be (low, high), not {limits}")
    check_number("repeat", repeat, low=1, whole=True)
    check_number("max_seconds", max_seconds, low=0)
    allowed = float(getattr(reward, "shaping_bound", 0.0)) if shaping is None else shaping
    run = _Bench(reward, allowed, limits, max_seconds)
    results = _score_cases(run, cases)
    scores = tuple(score for score, _ in results)
    if not run.rewards:
        run.breaches.append("the reward judges no case at all: each gets None")
    _check_order(run, scores)
    _check_same(run, cases, [result for _, result in results], repeat)
    for case in _first_of_groups(cases):
        if find_leak(case) is not None:
            run.breaches.append(f"line {case.line}: the prompt shows its ground truth")
    adversaries = _attack(run, cases, scores)
    components = tuple(_signals(cases, [result for _, result in results]))
    return BenchReport(
        cases=scores,
        adversaries=adversaries,
        components=components,
        low=min(run.rewards, default=None),
        high=max(run.rewards, default=None),
        mean_call_seconds=statistics.fmean(run.seconds),
        longest_call_seconds=max(run.seconds),
        shaping=allowed,
        breaches=tuple(dict.fromkeys(run.breaches)),
        notes=tuple(_notes(cases, components)),
    )


def _score_cases(run: _Bench, cases: Iterable[Case]) -> list[tuple[CaseScore, RewardResult | None]]:
    results = []
    for case in cases:
        result, problem = run.call(case.rollout)
        reward = result.reward if result else None
        if result is not None and case.expected is not None and not case.expected.allows(reward):
            problem = f"{_shown(reward)} instead of {case.expected}"
        if problem:
            run.breaches.append(f"line {case.line}: {problem}")
        expected = None if case.expected is None else str(case.expected)
        results.append((CaseScore(case.line, case.group, case.kind, expected, reward, problem), result))
    return results


def _check_order(run: _Bench, scores: Iterable[CaseScore]) -> None:
    for group in _grouped(scores).values():
        wins = [score for score in group if score.kind == "success" and score.reward is not None]
        losses = [score for score in group if score.kind == "failure" and score.reward is not None]
        if not wins or not losses:
            continue
        win, loss = min(wins, key=_reward_of), max(losses, key=_reward_of)
        if _reward_of(win) <= _reward_of(loss):
            run.breaches.append(
                f"line {win.line}: a success gets {_shown(win.reward)}, not more than the failed try of line "
                f"{loss.line} with {_shown(loss.reward)}"
            )


def _check_same(run: _Bench, cases: Sequence[Case], results: Sequence[RewardResult | None], repeat: int) -> None:
    """Score all cases again, and with a pickled copy: a reward keeps no state and survives the way to a process."""
    rewards = [run.reward] * (repeat - 1)
    try:
        rewards.append(pickle.loads(pickle.dumps(run.reward)))  # noqa: S301 - our own bytes
    except Exception as error:
        run.breaches.append(f"the reward cannot be pickled: {error!s:.200}")
    for reward in rewards:
        again = _Bench(reward, 0.0, None, run.max_seconds)
        for case, first in zip(cases, results, strict=True):
            if again.call(case.rollout)[0] != first:
                run.breaches.append(f"line {case.line}: the same rollout gets different rewards")


def _attack(run: _Bench, cases: Sequence[Case], scores: Sequence[CaseScore]) -> tuple[AdversaryScore, ...]:
    found: dict[str, list[tuple[float | None, str, str | None]]] = defaultdict(list)
    bounds = _grouped(scores)
    for number, case in enumerate(_first_of_groups(cases)):
        success = _lowest("success", bounds[case.group], scores)
        failure = _lowest("failure", bounds[case.group], scores)
        for adversary, rollout in attacks(case, enormous=number < _ATTACKED_ENORMOUSLY):
            result, problem = run.call(rollout)
            reward = result.reward if result else None
            if reward is not None and success is not None and reward >= success - _TOLERANCE:
                problem = f"gets {reward:g}, as much as an honest success ({success:g})"
            elif reward is not None and failure is not None and reward > failure + run.shaping + _TOLERANCE:
                problem = f"gets {reward:g}, more than an honest failed try ({failure:g}) and the shaping"
            found[adversary].append((reward, case.group, problem))
            if problem:
                run.breaches.append(f"{adversary}, group {case.group[:60]!r}: {problem}")
    return tuple(_summary(adversary, attempts) for adversary, attempts in found.items())


def _summary(adversary: str, attempts: Sequence[tuple[float | None, str, str | None]]) -> AdversaryScore:
    best = max(attempts, key=lambda attempt: -math.inf if attempt[0] is None else attempt[0])
    problem = next((problem for _, _, problem in attempts if problem), None)
    return AdversaryScore(adversary, len(attempts), best[0], best[1], problem)


def _signals(cases: Sequence[Case], results: Sequence[RewardResult | None]) -> Iterable[ComponentSignal]:
    """Yield what the reward as a whole and each of its components tell."""
    values: dict[str, list[tuple[Case, float]]] = {"reward": []}
    counting = {"reward": True}
    for case, result in zip(cases, results, strict=True):
        if result is None:
            continue
        if result.reward is not None:
            values["reward"].append((case, result.reward))
        for component in result.components:
            values.setdefault(component.name, []).append((case, component.value))
            counting[component.name] = component.counts
    for name, pairs in values.items():
        groups: dict[str, list[tuple[Case, float]]] = defaultdict(list)
        for case, value in pairs:
            groups[case.group].append((case, value))
        spreads = [statistics.pstdev([value for _, value in group]) for group in groups.values() if len(group) > 1]
        compared = _compared(groups.values()) or _compared([pairs])
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


def _notes(cases: Sequence[Case], components: Iterable[ComponentSignal]) -> Iterable[str]:
    for kind in ("success", "failure"):
        if not any(case.kind == kind for case in cases):
            yield f"no case is a {kind}, so that the rule about adversaries and it cannot be checked"
    for signal in components:
        if signal.has_no_signal:
            yield f"{signal.name} is constant within every group: it carries no signal"
        if signal.disagrees:
            yield f"{signal.name} prefers failed tries to successes"


def _compared(groups: Iterable[Sequence[tuple[Case, float]]]) -> list[tuple[float, float]]:
    pairs = []
    for group in groups:
        wins = [value for case, value in group if case.kind == "success"]
        losses = [value for case, value in group if case.kind == "failure"]
        pairs += [(win, loss) for win in wins for loss in losses]
    return pairs


def _first_of_groups(cases: Iterable[Case]) -> Iterable[Case]:
    """Return one case of each group, a success where there is one: its answer shows the format."""
    first: dict[str, Case] = {}
    for case in cases:
        if case.group not in first or (case.kind == "success" and first[case.group].kind != "success"):
            first[case.group] = case
    return first.values()


def _grouped(scores: Iterable[CaseScore]) -> Mapping[str, list[CaseScore]]:
    groups: dict[str, list[CaseScore]] = defaultdict(list)
    for score in scores:
        groups[score.group].append(score)
    return groups


def _lowest(kind: str, *choices: Iterable[CaseScore]) -> float | None:
    """Return the lowest reward of a kind in the first of the choices that has one."""
    for scores in choices:
        rewards = [score.reward for score in scores if score.kind == kind and score.reward is not None]
        if rewards:
            return min(rewards)
    return None


def _reward_of(score: CaseScore) -> float:
    return math.nan if score.reward is None else score.reward


def _shown(reward: float | None) -> str:
    return "null" if reward is None else f"{reward:g}"
