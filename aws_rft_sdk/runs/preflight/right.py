"""Rules: is what a job would train on what the rollouts did?"""

from __future__ import annotations

from collections.abc import Iterator

from aws_rft_sdk.runs.metrics.hints import FAILED_SHARE
from aws_rft_sdk.runs.metrics.intervals import wilson
from aws_rft_sdk.runs.preflight.sample import MTRL, Sample
from aws_rft_sdk.runs.preflight.values import Reason, Verdict
from aws_rft_sdk.runs.table import COMPLETED

_SERVICE = "SageMaker job runtime: it fails a job over this"


def _failures(sample: Sample) -> Iterator[Reason]:
    total = len(sample.table)
    if not total:
        return
    without = total - len(sample.groups.rewards)
    # A limit that ends some rollouts is for max_turns to judge. One that ends all of them leaves nothing to train on.
    lost = without if without == total else without - sample.limited
    share = lost / total
    verdict, advice = Verdict.GO, ""
    if share > FAILED_SHARE:
        verdict = Verdict.NO_GO
        advice = "Repair what fails first: aws-rft show RUN --failed. More retries do not repair an environment."
    text = f"{lost} of {total} rollouts failed or have no reward"
    yield Reason("failed_share", verdict, share, wilson(share, total), FAILED_SHARE, MTRL, text, advice)


def _no_turns(sample: Sample) -> Iterator[Reason]:
    pairs = zip(sample.table.turns, sample.table.status, strict=True)
    without = sum(turns == 0 for turns, status in pairs if status == COMPLETED)
    advice = "Let every rollout call the model at least once: the service fails a job over one that does not."
    yield _count("no_turns", without, "rollouts completed without a call of the model", advice)


def _foreign(sample: Sample) -> Iterator[Reason]:
    foreign = sum(sample.table.foreign_calls) + (sample.checks.foreign_calls or 0)
    advice = "Wrap every model of the agent: a call of another model is not trained."
    yield _count("foreign_model", foreign, "calls went to a model that is not the policy", advice)


def _untracked(sample: Sample) -> Iterator[Reason]:
    if (count := sample.checks.untracked_calls) is not None:
        advice = "Run aws-rft prove: it names the cause. Use wrap_model, and call it within the rollout."
        yield _count("untracked", count, "calls of the policy reached no trajectory, or a wrong one", advice)


def _count(rule: str, value: int, text: str, advice: str) -> Reason:
    verdict = Verdict.NO_GO if value else Verdict.GO
    return Reason(rule, verdict, value, None, 0, _SERVICE, f"{value} {text}", advice if value else "")


RULES = (_failures, _no_turns, _foreign, _untracked)
