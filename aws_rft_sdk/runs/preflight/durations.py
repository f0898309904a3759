"""How long a multi-turn RL job on SageMaker takes. AWS publishes no such figures, so this is a model of public runs.

Three jobs are known that trained gpt-oss-20b in 2026, with the service's defaults for concurrency and off-policy steps:

| Job | Steps of rollouts | Took |
|---|---|---|
| github.com/di37/aws-rl-workshop | 10 of 128, no validation | 19.2 min |
| github.com/aws-samples/sample-multi-turn-rl-wordle, first version | 100 of 128, validation of 100 | 4 h 18 min |
| the same, second version | 100 of 1,024, validation of 128 | 12 h 40 min |

Measured: the durations above, the tokens of the first job, and evaluations of 64 rollouts in 47 to 52 s.
Calibrated: the three constants below, so that the estimates of the three jobs are within 20 %.
Assumed: the cost of a step grows with its trained tokens, the service starts rollouts without gaps, and steps overlap
unless `max_steps_off_policy` is 0. Larger models train more slowly; nobody has published how much.
"""

from __future__ import annotations

from aws_rft_sdk.agent_rft import ROLLOUT_STARTS_PER_SECOND
from aws_rft_sdk.runs.preflight.values import TrainingPlan

JOB_SECONDS = 180.0
"""Before the first rollout. Evaluations of 128 rollouts took 4 minutes and more, their rollouts about 1 minute."""
STEP_SECONDS = 80.0
"""Of each step besides its rollouts: slow rollouts, new weights for the sampler, a checkpoint."""
SECONDS_PER_MILLION_TRAINED = 20.0
"""Of each step besides its rollouts, for a million tokens that it trains on."""


def seconds_per_rollout(seconds: float, concurrency: int) -> float:
    """Return how far apart rollouts begin on average: at the service's pace, or slower if too many are in progress.

    Args:
        seconds: Mean of a rollout.
        concurrency: Rollouts in progress at once, at most.
    """
    return max(1 / ROLLOUT_STARTS_PER_SECOND, seconds / concurrency)


def validations(steps: int, val_every: int) -> int:
    """Return how often a job validates: before the first step, every `val_every` steps, and after the last one."""
    regular = steps // val_every if val_every else 0
    return 1 + regular + (not val_every or steps % val_every > 0)


def job_seconds(
    plan: TrainingPlan, *, steps: int, rollouts: int, validation: int, gap: float, slowest: float, trained: float
) -> float:
    """Return how long a job takes, from its creation to its end.

    Args:
        plan: What the job will be run with.
        steps: Training steps.
        rollouts: Rollouts of all training steps.
        validation: Rollouts of all validations.
        gap: Seconds between the starts of two rollouts.
        slowest: Seconds of the slowest rollout of the sample.
        trained: Tokens that all steps train on.
    """
    waits = steps if plan.max_steps_off_policy == 0 else 0
    if validation:
        waits += validations(steps, plan.val_every or 0)
    work = steps * STEP_SECONDS + trained / 1e6 * SECONDS_PER_MILLION_TRAINED
    return JOB_SECONDS + (rollouts + validation) * gap + waits * slowest + work
