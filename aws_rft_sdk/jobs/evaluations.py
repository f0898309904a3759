"""Base model against tuned model, by two evaluations of the same prompts: `aws-rft compare`'s figures and intervals.

The service reports means only. The reward of each rollout is in MLflow's traces. With them the prompts are compared one
by one, which needs far fewer prompts than a comparison of means.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.agent_rft import EVALUATION_HYPERPARAMETERS
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.failures import RolloutStatus
from aws_rft_sdk.jobs._sagemaker_answers import document_of
from aws_rft_sdk.jobs.types import Job
from aws_rft_sdk.runs.metrics import RunComparison, compare
from aws_rft_sdk.runs.records import RolloutRecord

Traces = Iterable[Mapping[str, JSON]]
"""Rollouts of an evaluation, each with `id`, `prompt` and `reward`."""


@dataclass(frozen=True)
class Evaluated:
    """The evaluations of a base model and of the model that was tuned from it.

    Attributes:
        base: Evaluation of the base model.
        tuned: Evaluation of the tuned model.
        base_metrics: Figures that the service reports, for example `eval/reward/pass_at_1`.
        tuned_metrics: The same of the tuned model.
        comparison: Prompt by prompt, A the base and B the tuned model. None if there are no traces to compare.
        note: Why there is no comparison, or what it leaves out. Empty if there is nothing to say.
    """

    base: Job
    tuned: Job
    base_metrics: Mapping[str, float]
    tuned_metrics: Mapping[str, float]
    comparison: RunComparison | None
    note: str = ""

    def to_json(self) -> dict[str, JSON]:
        """Return everything by its name."""
        return {
            "base": {"job": self.base.id, "status": self.base.status, "metrics": dict(self.base_metrics)},
            "tuned": {"job": self.tuned.id, "status": self.tuned.status, "metrics": dict(self.tuned_metrics)},
            "comparison": self.comparison and self.comparison.to_dict(),
            "note": self.note,
        }


def evaluated(jobs: Sequence[Job], metrics: Sequence[Mapping[str, float]], traces: Sequence[Traces]) -> Evaluated:
    """Compare two evaluations, prompt by prompt where there are traces.

    A prompt is known by its text. An attempt without a reward is left out: the service has tried that rollout again.

    Args:
        jobs: The evaluations of the base model, A, and of the tuned model, B.
        metrics: The figures that the service reports of each.
        traces: The rollouts of each.
    """
    places: dict[str, int] = {}
    runs = [_records(each, places) for each in traces]
    parts = zip(("base", "tuned"), map(len, runs), map(_rollouts, metrics), strict=True)
    missing = [f"{have} of {all_} rollouts of the {model} model" for model, have, all_ in parts if have < all_]
    comparison, note = None, f"MLflow has traces of {' and '.join(missing)}; others are left out" if missing else ""
    asked = [{record.prompt_index for record in run} for run in runs]
    if not all(runs):
        counts = " and ".join(map(str, map(len, runs)))
        note = f"not paired: MLflow has prompt and reward of {counts} rollouts, so only means can be compared"
    elif asked[0].isdisjoint(asked[1]):
        note = "not paired: no prompt is in both evaluations, so only means can be compared"
    else:
        try:
            comparison = compare(runs[0], runs[1], success_threshold=_threshold(jobs[0]))
        except ConfigurationError as error:
            note = f"not paired: {error}"
    (base, tuned), (of_base, of_tuned) = jobs, metrics
    return Evaluated(base, tuned, of_base, of_tuned, comparison, note)


def _rollouts(metrics: Mapping[str, float]) -> int:
    """Return how many rollouts an evaluation had. Returns 0 if the service does not say."""
    each = metrics.get("eval/reward/rollouts_per_prompt", 1.0)
    return round(metrics.get("eval/reward/num_prompts", 0.0) * each)


def _threshold(evaluation: Job) -> float:
    rule = EVALUATION_HYPERPARAMETERS["success_threshold"]
    given = document_of(evaluation).get("EvaluationConfig", {}).get("HyperParameters", {}).get("success_threshold")
    return float(given) if rule.allows(given) else float(str(rule.default))


def _records(traces: Traces, places: dict[str, int]) -> list[RolloutRecord]:
    """Return records of rollouts. Adds new prompts to `places`."""
    samples = Counter[int]()
    found = []
    for trace in traces:
        prompt, reward = trace["prompt"], trace["reward"]
        if prompt is None or reward is None:
            continue
        place = places.setdefault(prompt, len(places))
        key = place, samples[place]
        found.append(RolloutRecord(str(trace["id"]), *key, reward, 0, 0.0, RolloutStatus.COMPLETED))
        samples[place] += 1
    return found
