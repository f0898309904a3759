"""All rules of a preflight. Each is a function of the sample that yields reasons, or none if it cannot be measured."""

from __future__ import annotations

from collections.abc import Iterable

from aws_rft_sdk.runs.metrics import SUCCESS_THRESHOLD
from aws_rft_sdk.runs.preflight import fits, learnable, right
from aws_rft_sdk.runs.preflight.sample import Sample
from aws_rft_sdk.runs.preflight.values import Checks, Preflight, Reason, TrainingPlan, Verdict
from aws_rft_sdk.runs.records import RolloutRecord
from aws_rft_sdk.runs.table import RolloutTable

_RULES = (*right.RULES, *learnable.RULES, *fits.RULES)
_ORDER = {verdict: place for place, verdict in enumerate((Verdict.NO_GO, Verdict.UNKNOWN, Verdict.WARN, Verdict.GO))}


def preflight(
    records: Iterable[RolloutRecord] | RolloutTable,
    plan: TrainingPlan | None = None,
    checks: Checks | None = None,
    *,
    success_threshold: float = SUCCESS_THRESHOLD,
) -> Preflight:
    """Judge whether a job would learn, from rollouts of the base policy.

    Args:
        records: Rollouts that have ended, of a sample of the prompts: several of each prompt.
        plan: What the job will be run with. None for the service's defaults.
        checks: What else was measured. None for nothing.
        success_threshold: Lowest reward that counts as a success.

    Returns:
        The reasons. A rule that nothing is known about has none.

    Raises:
        ConfigurationError: A reward is too large for figures to be computed.
    """
    sample = Sample(RolloutTable.of(records), plan or TrainingPlan(), checks or Checks(), success_threshold)
    reasons = [reason for rule in _RULES for reason in rule(sample)]
    return Preflight(tuple(sorted(reasons, key=lambda reason: _ORDER[reason.verdict])))


def conflicts(table: RolloutTable, plan: TrainingPlan) -> tuple[Reason, ...]:
    """Return what speaks against a job's limits: its prompts, time, tokens and turns. Empty if nothing does.

    Args:
        table: Rollouts of a sample. Empty if there is none: then only the prompts are compared with the batch.
        plan: What the job will be run with.
    """
    sample = Sample(table, plan, Checks(), SUCCESS_THRESHOLD)
    found = [reason for rule in fits.RULES for reason in rule(sample) if reason.verdict is not Verdict.GO]
    return tuple(sorted(found, key=lambda reason: _ORDER[reason.verdict]))
