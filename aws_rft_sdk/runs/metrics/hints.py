"""What figures mean: rules of the service's documentation and of people who ran jobs. Pure.

Where a source gives no figure, the figure is ours; docs/metrics.md has a table of both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from aws_rft_sdk.agent_rft import ROLLOUT_TIMEOUT_SECONDS
from aws_rft_sdk.runs.metrics.figures import Metrics

FAILED_SHARE = 0.01
ZERO_VARIANCE_SHARE = 0.5
AT_LIMIT_SHARE = 0.05
FEW_PROMPTS = 20
MANY_TURNS = 10
SHORT_RESPONSE_TOKENS = 16
WIDE_TURNS = 3


@dataclass(frozen=True)
class Hint:
    """Something that the figures say."""

    rule: str
    """Name of the rule in docs/metrics.md."""
    text: str


def hints(metrics: Metrics) -> tuple[Hint, ...]:
    """Return what the figures say, the gravest first. Empty when nothing stands out."""
    if not metrics.rollouts:
        return (Hint("nothing-ended", "no rollout has ended"),)
    found = [*_of_failures(metrics), *_of_groups(metrics), *_of_turns(metrics), *_of_numbers(metrics)]
    return tuple(Hint(rule, text) for rule, text in found)


def _of_failures(metrics: Metrics) -> Iterator[tuple[str, str]]:
    if metrics.unreported:
        yield (
            "unreported",
            f"{metrics.unreported} of {metrics.rollouts} rollouts were not reported: the service fails the "
            "whole job over one",
        )
    if (share := metrics.not_completed_share) is not None and share > FAILED_SHARE:
        yield (
            "failed-share",
            f"{share:.1%} of the rollouts did not complete ({named_failures(metrics.failures)}): above "
            f"{FAILED_SHARE:.0%} the environment is broken, and more retries do not repair it",
        )
    if metrics.zero_share == 1:
        yield "all-zero", "every reward is 0: the environment or the reward is broken"
    if (longest := metrics.seconds.max) is not None and longest > ROLLOUT_TIMEOUT_SECONDS:
        yield (
            "slow",
            f"the slowest rollout took {longest:.0f} s: the service gives up after {ROLLOUT_TIMEOUT_SECONDS:.0f} s "
            "unless rollout_timeout is raised",
        )


def _of_groups(metrics: Metrics) -> Iterator[tuple[str, str]]:
    groups, share = metrics.groups, metrics.groups.zero_variance_share
    if share is None or share <= ZERO_VARIANCE_SHARE:
        return
    says = f"{share:.0%} of the groups have equal rewards and teach nothing"
    if 2 * groups.zero_variance_right > groups.zero_variance:
        yield "too-easy", f"{says}, most of them all right: the prompts are too easy"
    elif 2 * groups.zero_variance_wrong > groups.zero_variance:
        yield "too-hard", f"{says}, most of them all wrong: the prompts are too hard, or the reward never pays"
    else:
        yield "no-variance", f"{says}: raise the temperature, or let the reward tell more"


def _of_turns(metrics: Metrics) -> Iterator[tuple[str, str]]:
    tokens, turns = metrics.tokens, metrics.turns
    if tokens is not None and tokens.at_limit_share is not None and tokens.at_limit_share > AT_LIMIT_SHARE:
        if tokens.limit is not None:
            yield (
                "truncated",
                f"{tokens.at_limit_share:.0%} of the rollouts have a response of {tokens.limit} tokens, the most that "
                f"is allowed: above {AT_LIMIT_SHARE:.0%} too much is cut off",
            )
        # Without the limit, only many equal responses far above the mean look like a cut.
        elif tokens.response.max and tokens.response.mean and tokens.response.max > 2 * tokens.response.mean:
            yield (
                "truncated",
                f"{tokens.at_limit_share:.0%} of the rollouts have a response of {tokens.response.max:.0f} tokens, the "
                "longest: if that is sampling_max_tokens, they were cut off",
            )
    if metrics.success is not None and metrics.success.value == 0:
        if turns.mean is not None and turns.mean >= MANY_TURNS:
            yield "looping", f"no success with {turns.mean:.1f} turns on average: the agent runs in circles"
        if tokens is not None and tokens.response.mean is not None and tokens.response.mean < SHORT_RESPONSE_TOKENS:
            yield (
                "short-answers",
                f"no success with {tokens.response.mean:.0f} tokens a turn: answers are malformed or empty",
            )
    if turns.mean and turns.max is not None and turns.max >= MANY_TURNS and turns.max > WIDE_TURNS * turns.mean:
        yield "turn-spread", f"up to {turns.max:.0f} turns, {turns.mean:.1f} on average: tools fail on some prompts"


def _of_numbers(metrics: Metrics) -> Iterator[tuple[str, str]]:
    if mixed := mixture_of(metrics.sources):
        yield "mixed-run", mixed
    if metrics.no_reward:
        yield (
            "no-reward",
            f"{metrics.no_reward} of {metrics.rollouts} rollouts completed without a reward: they are in no mean of "
            "rewards, and no success in pass@k",
        )
    if metrics.prompts < FEW_PROMPTS:
        yield "few-prompts", f"few prompts ({metrics.prompts}): take the intervals for rough"


def named_failures(failures: Mapping[str, int]) -> str:
    """Return the numbers of failures by kind as text, for example "10 agent, 2 infrastructure"."""
    return ", ".join(f"{count} {kind}" for kind, count in failures.items())


def mixture_of(sources: Mapping[str, int]) -> str | None:
    """Return a sentence about rollouts of several versions of the code; None if there is one version."""
    if len(sources) < 2:
        return None
    named = ", ".join(f"{count} of {source}" for source, count in sources.items())
    return f"the rollouts ran {len(sources)} versions of the code: {named}"
