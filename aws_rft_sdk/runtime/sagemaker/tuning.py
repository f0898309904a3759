"""The life of a training job, from its dataset to its last checkpoint.

A step is one transaction: what was learnt, its metrics, `ServiceOutput` and its checkpoints. So a job that was
interrupted goes on with the step after the last complete one. Steps are synchronous: the rollouts of a step come from
the policy of the step before, whatever `max_steps_off_policy` allows.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from aws_rft_sdk._checks import is_number
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.advantages import ADVANTAGES, Advantages, Scored
from aws_rft_sdk.agent_rft import BaseModel, steps_per_epoch, total_steps
from aws_rft_sdk.runtime.bedrock.trainers import Group, Sample, TrainingStep, Update
from aws_rft_sdk.runtime.sagemaker.metrics import (
    Groups,
    reward_of,
    rollout_metrics,
    sampled_tokens,
    success_metrics,
    training_metrics,
)
from aws_rft_sdk.runtime.sagemaker.phases import Job, JobFailure, Phase, sampling_params, timed


async def tune(job: Job, model: BaseModel) -> None:
    """Run a training job to its end, from wherever it stands.

    Raises:
        JobFailure, RolloutFailure, ChannelError: The job fails. The text says why.
        JobEndedError: The job was stopped.
    """
    prompts = await job.read("train") or []
    size = job.values["global_batch_size"]
    if len(prompts) <= size:
        raise JobFailure(
            f"The dataset has {len(prompts)} prompts. A job needs more prompts than global_batch_size, which is {size}"
        )
    training = _Training(job, model, prompts, await job.read("validation"))
    job.store.advance(job.row, secondary="Training", message="Training", output=training.progress())
    await training.run()


class _Training:
    def __init__(self, job: Job, model: BaseModel, prompts: list[str], validation: list[str] | None) -> None:
        self._job, self._model, self._prompts, self._validation = job, model, prompts, validation
        values = job.values
        self._size: int = values["global_batch_size"]
        self._per_epoch = steps_per_epoch(len(prompts), self._size)
        self._total = total_steps(len(prompts), self._size, values["max_epochs"], values["max_steps"])
        self._done, self._state = job.store.progress(job.row)
        self._first = 0
        package = job.input_package()
        if package is not None:
            self._first = package.step if package.resumable else 0
            if self._done == 0:
                self._done, self._state = self._first, package.state

    def progress(self) -> dict[str, JSON]:
        """Return the block of `ServiceOutput` for the step in progress, by epochs unless the steps end the job."""
        step = min(self._done + 1, self._total)
        epochs = self._job.values["max_epochs"]
        if self._total == epochs * self._per_epoch:
            info = {
                "MaxEpoch": epochs,
                "StepsPerEpoch": self._per_epoch,
                "CurrentEpoch": self._epoch(step),
                "CurrentStep": (step - 1) % self._per_epoch + 1,
            }
        else:
            info = {"MaxSteps": self._total, "CurrentStep": step}
        return {"ProgressInfo": {**info, "BatchSize": self._size}}

    def _epoch(self, step: int) -> int:
        return (step - 1) // self._per_epoch + 1

    async def run(self) -> None:
        """Validate and train in turns until the last step."""
        await self._validate()
        while self._done < self._total:
            await self._step(self._done + 1)
            await self._validate()

    # --- one step ----------------------------------------------------------------------------------------------------

    async def _step(self, number: int) -> None:
        job, seconds = self._job, timed()
        begin = (number - 1) % self._per_epoch * self._size
        batch = self._prompts[begin : begin + self._size]
        params = sampling_params(job.values)
        groups = await job.run(Phase("training", number, batch, job.values["group_size"], params, self._state))
        advantages = ADVANTAGES[job.values["advantage_method"]](
            [[_scored(rollout.trajectory) for rollout in group] for group in groups]
        )
        metrics = rollout_metrics("rollout", groups)
        metrics |= training_metrics(groups, advantages, step=number, epoch=self._epoch(number))
        learning = timed()
        update = await self._learn(number, groups, advantages)
        metrics["timing_s/training"] = learning()
        if update is not None:
            metrics |= _figures(update)
        state, updating = None if update is None else update.state, timed()
        await job.policies.at(state)
        metrics |= {"timing_s/policy_update": updating(), "timing_s/step": seconds()}
        self._finish(number, state, metrics)

    async def _learn(self, number: int, groups: Groups, advantages: Advantages) -> Update | None:
        if self._job.trainer is None:
            return None
        values = self._job.values
        numbers: dict[str, float] = {name: value for name, value in values.items() if is_number(value)}
        numbers["learning_rate_multiplier"] = (
            values["learning_rate"] / self._model.hyperparameters["learning_rate"].default
        )
        step = TrainingStep(
            self._job.row.name,
            number,
            self._total,
            numbers,
            zlib.crc32(self._job.row.name.encode()),
            [_group(of_prompt, of_group) for of_prompt, of_group in zip(groups, advantages, strict=True)],
        )
        update: Update = await self._job.workers.run(functools.partial(self._job.trainer.step, self._state, step))
        return update

    def _finish(self, number: int, state: bytes | None, metrics: Mapping[str, float]) -> None:
        job = self._job
        self._done, self._state = number, state
        output = {**self.progress(), **job.usage.output(with_training=True)}
        every = job.values.get("save_every", 1)  # only Nova's may be set
        is_mark = number == self._total or (every > 0 and number % every == 0)
        saving = timed()
        job.store.finish_step(job.row, number, state, metrics, output, checkpoint=is_mark)
        if is_mark:
            job.store.log_metrics(job.row, number, {"timing_s/save_checkpoint": saving()})
        mean = metrics["rollout/reward/mean"]
        job.store.log(job.row, f"step {number} of {self._total}: rollout/reward/mean {mean:.4f}")

    # --- validation --------------------------------------------------------------------------------------------------

    async def _validate(self) -> None:
        """Validate before the first step, every `val_every` steps and after the last one, each once."""
        job, step, every = self._job, self._done, self._job.values["val_every"]
        is_due = step in (self._first, self._total) or (every > 0 and step % every == 0)
        is_done = any(row.step == step for row in job.store.metrics(job.row, "val/reward/mean"))
        if self._validation is None or not is_due or is_done:
            return
        seconds = timed()
        params = sampling_params(job.values, temperature=0.0)
        groups = await job.run(Phase("validation", step, self._validation, 1, params, self._state))
        metrics = rollout_metrics("val", groups) | success_metrics(
            "val", groups, threshold=job.values["success_threshold"], ks=job.values["pass_k_values"]
        )
        job.store.advance(job.row, output=job.usage.output(with_training=True))
        job.store.log_metrics(job.row, step, {**metrics, "timing_s/eval": seconds()})


def _scored(trajectory: Any) -> Scored:
    return Scored(trajectory.rewards, len(trajectory.turns), sum(map(sampled_tokens, trajectory.turns)))


def _group(rollouts: Sequence[Any], advantages: Sequence[Sequence[float]]) -> Group:
    samples = [
        Sample(turn.response, reward_of(rollout), advantage, rollout=index, turn=turn.index)
        for index, (rollout, of_rollout) in enumerate(zip(rollouts, advantages, strict=True))
        for turn, advantage in zip(rollout.trajectory.turns, of_rollout, strict=True)
    ]
    return Group({"prompt": rollouts[0].trajectory.prompt}, samples)


def _figures(update: Update) -> dict[str, float]:
    for name, value in update.metrics.items():
        if not is_number(value):
            raise JobFailure(f"The trainer's metric {name} is {value!r:.40}, no finite number")
    return {f"trainer/{name}": value for name, value in update.metrics.items()}
