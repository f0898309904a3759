"""What a job would take: rollouts, hours, tokens, money. Figures, not verdicts; None where a figure is not known."""

from __future__ import annotations

import sys
from array import array
from dataclasses import asdict, dataclass
from operator import add
from statistics import fmean

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.agent_rft import ROLLOUT_CONCURRENCY, ROLLOUT_STARTS_PER_SECOND, total_steps
from aws_rft_sdk.datasets._text import plural
from aws_rft_sdk.runs.preflight.durations import job_seconds, seconds_per_rollout, validations
from aws_rft_sdk.runs.preflight.values import TrainingPlan
from aws_rft_sdk.runs.table import RolloutTable


@dataclass(frozen=True)
class Estimates:
    """What a job would take, if its rollouts were like those of the sample."""

    rollouts_per_step: int | None
    steps: int | None
    """The least of the plan's steps and of its epochs over all prompts."""
    rollouts: int | None
    """Of all training steps."""
    validation_rollouts: int | None
    """Of all validations. None if nobody says how many prompts they have."""
    start_seconds_per_step: float | None
    """Seconds in which the rollouts of a step begin, at the service's pace."""
    rollouts_in_progress: float | None
    """Rollouts in progress at once, when as many start as the service allows. The worker must hold so many."""
    rollout_hours: float | None
    """Hours of training rollouts alone."""
    hours: float | None
    """Hours of the whole job, by `aws_rft_sdk.runs.preflight.durations`. Known for jobs on SageMaker only. Too low if
    the tokens of the sample are not known."""
    prefill_tokens: int | None
    """Tokens that the policy reads in all turns, those of the validations included."""
    sample_tokens: int | None
    """Tokens that the policy answers, those of the validations included."""
    train_tokens: int | None
    """On SageMaker, the tokens of every request and its answer: a public job was billed for these. It may be fewer
    for an agent whose requests repeat the history unchanged. Elsewhere, each rollout counts as one row: its longest
    request with the answer."""
    cost: float | None
    """US dollars, by the plan's prices."""
    price_source: str | None
    """Where the prices come from, and their day."""
    worker_peak_bytes: int | None = None
    """Most memory that the process of the rollouts had, this package included."""

    def to_dict(self) -> dict[str, JSON]:
        """Return the fields as JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """Return what is known as lines of text."""
        lines = []
        if self.rollouts is not None:
            more = f", and {self.validation_rollouts:,} for validation" if self.validation_rollouts else ""
            steps = plural(self.steps or 0, "step")
            lines.append(f"{steps} of {self.rollouts_per_step:,} rollouts: {self.rollouts:,} rollouts{more}")
        if self.start_seconds_per_step is not None:
            pace = f"{ROLLOUT_STARTS_PER_SECOND:g} a second"
            lines.append(f"the rollouts of a step begin within {self.start_seconds_per_step:.0f} s, at {pace}")
        if self.rollout_hours is not None and self.rollouts_in_progress is not None:
            at_once = f"{self.rollouts_in_progress:.0f} at once"
            lines.append(f"{self.rollout_hours:.1f} hours of rollouts, {at_once}, without training itself")
        if self.hours is not None:
            lines.append(f"about {self.hours:.1f} hours for the job, by a model of three public jobs of gpt-oss-20b")
        if self.sample_tokens is not None:
            read = f"{self.prefill_tokens:,} tokens read, {self.sample_tokens:,} answered"
            rows = "" if self.hours is not None else " if each rollout is one row"
            lines.append(f"{read}, {self.train_tokens:,} trained{rows}")
        if self.cost is not None:
            lines.append(f"{self.cost:,.2f} US dollars by {self.price_source}")
        if self.worker_peak_bytes is not None:
            lines.append(f"{self.worker_peak_bytes / 2**20:,.0f} MiB of memory, this command included")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Tokens:
    """Of a rollout in the mean."""

    read: float
    answered: float
    trained: float

    @classmethod
    def of(cls, table: RolloutTable, *, every_turn: bool) -> _Tokens | None:
        """Return the means over the rollouts whose tokens are known. Returns None if no tokens are."""
        known = [place for place, turns in enumerate(table.response_turns) if turns]
        if not known:
            return None
        rows = array("q", map(add, table.prompt_tokens, table.response_tokens)) if every_turn else table.context
        columns = (table.prompt_tokens, table.response_tokens, rows)
        return cls(*(fmean(column[place] for place in known) for column in columns))


def estimate_job(table: RolloutTable, plan: TrainingPlan, worker_peak_bytes: int | None = None) -> Estimates:
    """Return what a job would take.

    Args:
        table: Rollouts of the sample. Empty if there is none: then only steps and rollouts are known.
        plan: What the job will be run with.
        worker_peak_bytes: Becomes the field of this name.
    """
    on_sagemaker = plan.model is not None
    per_step = None if plan.batch_size is None else plan.batch_size * plan.group_size
    steps = _steps(plan)
    rollouts = None if per_step is None or steps is None else per_step * steps
    checked = _validation_rollouts(plan, steps)
    seconds = fmean(table.seconds) if len(table) else None
    concurrency = plan.concurrency or ROLLOUT_CONCURRENCY
    in_progress = None if seconds is None else max(1.0, min(concurrency, ROLLOUT_STARTS_PER_SECOND * seconds))
    tokens = _Tokens.of(table, every_turn=on_sagemaker)
    read = answered = trained = cost = rollout_hours = hours = None
    if rollouts is not None and tokens is not None:
        read, answered = (round((rollouts + (checked or 0)) * mean) for mean in (tokens.read, tokens.answered))
        trained = round(rollouts * tokens.trained)
        cost = None if plan.prices is None else plan.prices.cost(read, answered, trained)
    if rollouts is not None and steps is not None and seconds is not None:
        gap = seconds_per_rollout(seconds, concurrency)
        rollout_hours = rollouts * gap / 3600
        if on_sagemaker:
            hours = job_seconds(
                plan,
                steps=steps,
                rollouts=rollouts,
                validation=checked or 0,
                gap=gap,
                slowest=max(table.seconds),
                trained=trained or 0,
            )
            hours /= 3600
    return Estimates(
        rollouts_per_step=per_step,
        steps=steps,
        rollouts=rollouts,
        validation_rollouts=checked,
        start_seconds_per_step=None if per_step is None else per_step / ROLLOUT_STARTS_PER_SECOND,
        rollouts_in_progress=in_progress,
        rollout_hours=rollout_hours,
        hours=hours,
        prefill_tokens=read,
        sample_tokens=answered,
        train_tokens=trained,
        cost=cost,
        price_source=None if plan.prices is None else plan.prices.origin,
        worker_peak_bytes=worker_peak_bytes,
    )


def _steps(plan: TrainingPlan) -> int | None:
    """Return the steps of a job. Returns None if neither its steps nor its epochs are known."""
    if plan.epochs is None or plan.prompts is None or plan.batch_size is None:
        return plan.steps
    most = sys.maxsize if plan.steps is None else plan.steps
    return total_steps(plan.prompts, plan.batch_size, plan.epochs, most)


def _validation_rollouts(plan: TrainingPlan, steps: int | None) -> int | None:
    """Return the rollouts of all validations: one for each prompt. Returns None if their number is not known."""
    if plan.validation_prompts is None or plan.val_every is None or steps is None:
        return None
    return plan.validation_prompts * validations(steps, plan.val_every)
