"""The life of an evaluation: every prompt as often as the job says, and what came out."""

from __future__ import annotations

from aws_rft_sdk.runtime.sagemaker.metrics import rollout_metrics, success_metrics
from aws_rft_sdk.runtime.sagemaker.phases import Job, JobFailure, Phase, sampling_params, timed


async def evaluate(job: Job) -> None:
    """Run an evaluation to its end. One that was interrupted begins anew.

    Raises:
        JobFailure, RolloutFailure, ChannelError: The job fails. The text says why.
        JobEndedError: The job was stopped.
    """
    prompts = await job.read("evaluation")
    if not prompts:
        raise JobFailure("The job has no channel named evaluation")
    package = job.input_package()
    model = "the base model" if package is None else package.arn
    job.store.advance(job.row, secondary="Evaluating", message=f"Evaluating {model}")
    seconds, values = timed(), job.values
    state = None if package is None else package.state
    phase = Phase("evaluation", 0, prompts, values["eval_group_size"], sampling_params(values), state)
    groups = await job.run(phase)
    metrics = rollout_metrics("eval", groups) | success_metrics(
        "eval", groups, threshold=values["success_threshold"], ks=values["pass_k_values"]
    )
    job.store.log_metrics(job.row, 0, {**metrics, "timing_s/eval": seconds()})
    output = {"EvaluationMetrics": metrics, **job.usage.output(with_training=False)}
    job.store.advance(job.row, output=output)
