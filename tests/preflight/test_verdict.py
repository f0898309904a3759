"""The verdict of a preflight on runs whose verdict is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from aws_rft_sdk.failures import FailureKind
from aws_rft_sdk.runs import RolloutRecord, RolloutStatus
from aws_rft_sdk.runs.preflight import Checks, TrainingPlan, Verdict, preflight

Records = list[RolloutRecord]
GO, WARN, NO_GO, UNKNOWN = Verdict.GO, Verdict.WARN, Verdict.NO_GO, Verdict.UNKNOWN
MIXED = tuple(0.2 + 0.6 * number / 63 for number in range(64))


def sample(
    chances: tuple[float, ...] = MIXED,
    *,
    samples: int = 8,
    change: Callable[[RolloutRecord, Random], RolloutRecord] | None = None,
    reward: Callable[[float, Random], float] = lambda chance, random: float(random.random() < chance),
) -> Records:
    """Return rollouts of prompts that are solved with these chances."""
    random = Random(1)
    records = []
    for prompt, chance in enumerate(chances):
        for number in range(samples):
            record = RolloutRecord(
                trajectory_id=f"t-{prompt}-{number}",
                prompt_index=prompt,
                sample_index=number,
                reward=reward(chance, random),
                turns=2,
                seconds=random.uniform(1, 3),
                status=RolloutStatus.COMPLETED,
                prompt_tokens=(100, 200),
                response_tokens=(random.randint(20, 60), random.randint(20, 60)),
            )
            records.append(change(record, random) if change else record)
    return records


def sometimes(share: float, **fields: object) -> Callable[[RolloutRecord, Random], RolloutRecord]:
    """Return a change of this share of the rollouts."""
    return lambda record, random: replace(record, **fields) if random.random() < share else record  # type: ignore[arg-type]


def _long_answer(record: RolloutRecord, random: Random) -> RolloutRecord:
    tokens = random.randint(20, 400)
    return replace(record, response_tokens=(tokens, 10), reward=float(tokens + random.gauss(0, 40) > 210))


def _components(**parts: Callable[[RolloutRecord], float]) -> Callable[[RolloutRecord, Random], RolloutRecord]:
    return lambda record, _: replace(record, metrics={name: part(record) for name, part in parts.items()})


FAILED = {"status": RolloutStatus.FAILED, "reward": None, "failure": FailureKind.AGENT, "error": "ValueError: x"}
LIMITED = {**FAILED, "failure": FailureKind.LIMIT}


def _one_fails(record: RolloutRecord, _: Random) -> RolloutRecord:
    return replace(record, **FAILED) if record.key == (3, 3) else record  # type: ignore[arg-type]


CASES: dict[str, tuple[Records, TrainingPlan | None, Checks | None, dict[str, Verdict], Verdict]] = {}


def case(
    name: str,
    verdict: Verdict,
    records: Records,
    plan: TrainingPlan | None = None,
    checks: Checks | None = None,
    **rules: Verdict,
) -> None:
    CASES[name] = records, plan, checks, rules, verdict


case("clean", GO, sample())
case("clean-with-all-limits", GO, sample(), TrainingPlan(8, 32, 64, 50, 512, 10, 4096))
case("all-wrong", NO_GO, sample((0.0,) * 64), success_zero=NO_GO, rewards_equal=NO_GO)
case("all-right", NO_GO, sample((1.0,) * 64), success_ceiling=WARN, rewards_equal=NO_GO)
case("nearly-all-right", WARN, sample((0.97,) * 64), success_ceiling=WARN, dead_groups=WARN)
case("hard", WARN, sample((0.02,) * 64), success_zero=WARN, dead_groups=WARN)
case("half-solved-half-not", WARN, sample((0.0, 1.0) * 32), dead_groups=WARN, headroom=WARN)
case("never-right-yet-different", WARN, sample(reward=lambda _, random: random.random() / 2), success_zero=WARN)
case(
    "few-rollouts-none-right",
    UNKNOWN,
    sample((0.0,) * 3),
    success_zero=UNKNOWN,
    rewards_equal=UNKNOWN,
    sample_too_small=UNKNOWN,
)
case("few-prompts", WARN, sample(MIXED[20:40]), sample_too_small=WARN)
case("too-few-prompts", UNKNOWN, sample(MIXED[20:30]), sample_too_small=UNKNOWN)
case("one-rollout-each", UNKNOWN, sample(samples=1), sample_too_small=UNKNOWN)
case("nothing", UNKNOWN, [], sample_too_small=UNKNOWN)
case("crashes", NO_GO, sample(change=sometimes(0.05, **FAILED)), failed_share=NO_GO)
case("no-rewards", NO_GO, sample(change=sometimes(0.05, reward=None)), failed_share=NO_GO)
case("one-crash-of-512", GO, sample(change=_one_fails), failed_share=GO)
case("limit", WARN, sample(change=sometimes(0.2, **LIMITED)), max_turns=WARN, failed_share=GO)
case("at-the-turns", WARN, sample(change=sometimes(0.2, turns=10)), TrainingPlan(max_turns=10), max_turns=WARN)
case("no-turns", NO_GO, sample(change=sometimes(0.01, turns=0)), no_turns=NO_GO)
case("foreign", NO_GO, sample(change=sometimes(0.01, foreign_calls=1)), foreign_model=NO_GO)
case("foreign-proved", NO_GO, sample(), checks=Checks(foreign_calls=2), foreign_model=NO_GO)
case("untracked", NO_GO, sample(), checks=Checks(untracked_calls=1), untracked=NO_GO)
case("tracked", GO, sample(), checks=Checks(untracked_calls=0, foreign_calls=0), untracked=GO)
case("noisy", WARN, sample(), checks=Checks(repeated_rewards=(64, 8)), reward_noise=WARN)
case("steady", GO, sample(), checks=Checks(repeated_rewards=(64, 1)), reward_noise=GO)
case("follows-length", WARN, sample(change=_long_answer), reward_follows_length=WARN)
case(
    "component",
    WARN,
    sample(change=_components(a=lambda r: r.reward or 0.0, format=lambda r: 1.0)),
    component_dead=WARN,
)
case("components-live", GO, sample(change=_components(a=lambda r: r.reward or 0.0)), component_dead=GO)
case("slow", NO_GO, sample(change=sometimes(0.05, seconds=700.0)), rollout_seconds=NO_GO)
case(
    "slow-on-agentcore",
    NO_GO,
    sample(change=sometimes(0.05, seconds=950.0)),
    TrainingPlan(rollout_timeout_seconds=3600, platform_seconds=900),
    rollout_seconds=NO_GO,
)
case(
    "slow-and-allowed",
    GO,
    sample(change=sometimes(0.05, seconds=700.0)),
    TrainingPlan(rollout_timeout_seconds=900),
    rollout_seconds=GO,
)
case("long", NO_GO, sample(), TrainingPlan(context_tokens=250), context_length=NO_GO)
case("nearly-long", WARN, sample(), TrainingPlan(context_tokens=270), context_length=WARN)
case(
    "cut-off", WARN, sample(change=sometimes(0.1, response_tokens=(64, 5))), TrainingPlan(max_tokens=64), token_cap=WARN
)
case("batch-of-all", NO_GO, sample(), TrainingPlan(batch_size=64, prompts=64), prompts_vs_batch=NO_GO)
case("batch-of-half", GO, sample(), TrainingPlan(batch_size=32, prompts=64), prompts_vs_batch=GO)


@pytest.mark.parametrize("name", CASES)
def test_preflight_when_the_verdict_is_known_then_it_and_its_reasons_are_found(name: str) -> None:
    records, plan, checks, rules, verdict = CASES[name]
    found = preflight(Random(0).sample(records, len(records)), plan, checks)  # their order does not matter
    said = {reason.rule: reason.verdict for reason in found.reasons}
    assert {rule: said.get(rule) for rule in rules} == rules
    assert found.verdict is verdict
    if verdict is GO:
        assert set(said.values()) == {GO}
    for reason in found.reasons:
        assert bool(reason.advice) is (reason.verdict is not GO)
        assert all((reason.source, reason.text))
        low, high = reason.interval or (float("-inf"), float("inf"))
        assert reason.value is None or low - 1e-9 <= reason.value <= high + 1e-9


def _short_answer(record: RolloutRecord, random: Random) -> RolloutRecord:
    long = _long_answer(record, random)
    return replace(long, reward=1 - (long.reward or 0.0))


SLOW = sometimes(0.05, seconds=950.0)
PLATFORM = TrainingPlan(rollout_timeout_seconds=3600, platform_seconds=900)
WORDS: dict[str, tuple[Records, TrainingPlan | None, str, str]] = {
    "kinds-of-failures": (sample(change=_one_fails), None, "failed_share", "1 agent"),
    "slow-for-the-job": (sample(change=SLOW), None, "rollout_seconds", "rollout_timeout"),
    "slow-for-the-platform": (sample(change=SLOW), PLATFORM, "rollout_seconds", "the platform's limit of a call"),
    "pays-for-length": (sample(change=_long_answer), None, "reward_follows_length", "longer answers"),
    "pays-for-brevity": (sample(change=_short_answer), None, "reward_follows_length", "shorter answers"),
    "few-prompts": (sample((0.05, 0.1) * 12), None, "sample_too_small", "prompts would tell"),
}


@pytest.mark.parametrize("name", WORDS)
def test_preflight_when_a_reason_is_given_then_its_words_fit(name: str) -> None:
    records, plan, rule, words = WORDS[name]
    (reason,) = (reason for reason in preflight(records, plan).reasons if reason.rule == rule)
    assert words in f"{reason.text} {reason.advice} {reason.source}"


def test_preflight_when_nothing_is_known_then_such_rules_say_nothing() -> None:
    said = {reason.rule for reason in preflight(sample()).reasons}
    assert said & {"max_turns", "token_cap", "context_length", "prompts_vs_batch", "untracked", "reward_noise"} == set()
    assert "would tell" not in " ".join(reason.text for reason in preflight(sample()).reasons)
