"""What the lives of both kinds of jobs are made of: policies of states, and phases of rollouts."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runtime.bedrock.trainers import Trainer
from aws_rft_sdk.runtime.policies import Policy, Workers, make_policy
from aws_rft_sdk.runtime.sagemaker.metrics import Groups, reward_of, tokens_of
from aws_rft_sdk.runtime.sagemaker.objects import Objects
from aws_rft_sdk.runtime.sagemaker.policies import RoutingPolicy
from aws_rft_sdk.runtime.sagemaker.prompts import read_channel
from aws_rft_sdk.runtime.sagemaker.rollouts import Rollout, Rollouts, Sampling
from aws_rft_sdk.runtime.sagemaker.rows import JobRow, PackageRow
from aws_rft_sdk.runtime.sagemaker.store import Store

_REPORTS = 10
"""How often a phase says how many of its rollouts have ended."""


class JobFailure(Exception):
    """The job ends as failed. The text is its `FailureReason`."""


class Policies:
    """The policies of one job, one at a time.

    Args:
        router: Is told which policies are not used any more.
        base: Answers for the base model if nothing learns.
        trainer: Makes the policies of all states. None if nothing learns.
    """

    def __init__(self, router: RoutingPolicy, base: Policy | None, trainer: Trainer | None) -> None:
        self._router, self._base, self._trainer = router, base, trainer
        self._state: bytes | None = None
        self._made: Policy | None = None

    async def at(self, state: bytes | None) -> Policy | None:
        """Return the policy with what was learnt until a state. None if there is no policy at all."""
        if self._trainer is None:
            return self._base
        if self._made is None or state != self._state:
            # In a thread, because a trainer may load a model here.
            made = make_policy(await asyncio.to_thread(self._trainer.policy, state))
            self.close()
            self._made, self._state = made, state
        return self._made

    def close(self) -> None:
        """Let the policy be released."""
        self._router.retire(self._made)
        self._made = None


class Usage:
    """The tokens that a job is billed for. The failed attempts of rollouts count, but nothing is trained on them.

    Args:
        output: `ServiceOutput` of the job.
    """

    def __init__(self, output: Mapping[str, Any]) -> None:
        known = output.get("BillableTokenUsage", {})
        self._prefill, self._sample, self._train = (
            int(known.get(f"{name}TokenCount", 0)) for name in ("Prefill", "Sample", "Train")
        )

    def add(self, rollouts: Sequence[Rollout], *, trained: bool = False) -> None:
        """Count the tokens of rollouts."""
        for rollout in rollouts:
            for trajectory in (rollout.trajectory, *rollout.earlier):
                read, sampled = tokens_of(trajectory)
                self._prefill += read
                self._sample += sampled
            if trained:
                self._train += sum(tokens_of(rollout.trajectory))

    def output(self, *, with_training: bool) -> dict[str, JSON]:
        """Return the block of `ServiceOutput`."""
        counts = {"PrefillTokenCount": self._prefill, "SampleTokenCount": self._sample}
        return {"BillableTokenUsage": counts | ({"TrainTokenCount": self._train} if with_training else {})}


class Phase(NamedTuple):
    """Rollouts that belong together."""

    name: str
    """ "training", "validation" or "evaluation", as in the traces."""
    step: int
    prompts: Sequence[str]
    group_size: int
    params: Mapping[str, float]
    """`inferenceParams` of the payloads."""
    state: bytes | None


class Job(NamedTuple):
    """One job while it runs, and what it works with."""

    row: JobRow
    store: Store
    objects: Objects
    rollouts: Rollouts
    policies: Policies
    trainer: Trainer | None
    workers: Workers
    values: Mapping[str, Any]
    """Hyperparameters, with the defaults of those that the document leaves out."""
    usage: Usage

    async def read(self, channel: str) -> list[str] | None:
        """Return the prompts of a channel, or None if the job has no such channel.

        Raises:
            ChannelError: It cannot be read.
        """
        read = functools.partial(read_channel, self.row.document, channel, self.objects)
        prompts: list[str] | None = await self.workers.run(read)
        return prompts

    async def run(self, phase: Phase) -> Groups:
        """Run the rollouts of a phase, and write their traces. Returns a group for each prompt.

        Raises:
            RolloutFailure: A rollout failed at every attempt.
        """
        total = len(phase.prompts) * phase.group_size
        sampling = Sampling(self.row.arn, phase.params, await self.policies.at(phase.state))
        self._report(0, total)
        cells = [prompt for prompt in phase.prompts for _ in range(phase.group_size)]
        rollouts = await self.rollouts.run(cells, sampling, functools.partial(self._report, total=total))
        self.usage.add(rollouts, trained=phase.name == "training")
        await self.workers.run(functools.partial(self._trace, phase, rollouts))
        return [rollouts[at : at + phase.group_size] for at in range(0, total, phase.group_size)]

    def _report(self, completed: int, total: int) -> None:
        if completed % max(1, total // _REPORTS) == 0 or completed == total:
            self.store.advance(self.row, output={"RolloutInfo": {"Completed": completed, "Total": total}})

    def _trace(self, phase: Phase, rollouts: Sequence[Rollout]) -> None:
        for rollout in rollouts:
            self.store.trace(self.row, _trace(phase, rollout))

    def input_package(self) -> PackageRow | None:
        """Return the model package that the job begins from, or None if it begins from the base model.

        Raises:
            JobFailure: The package was deleted.
        """
        arn = self.row.document.get("ModelPackageConfig", {}).get("InputModelPackageArn")
        package = None if arn is None else self.store.package(arn)
        if arn is not None and package is None:
            raise JobFailure(f"InputModelPackageArn {arn} does not exist")
        return package


def timed() -> Callable[[], float]:
    """Return a function that returns the seconds since this call."""
    began = time.monotonic()
    return lambda: time.monotonic() - began


def sampling_params(values: Mapping[str, Any], *, temperature: float | None = None) -> dict[str, float]:
    """Return `inferenceParams` of the payloads.

    Args:
        values: The job's hyperparameters.
        temperature: Replaces the job's own. None does not.
    """
    return {
        "temperature": values["temperature"] if temperature is None else temperature,
        "topP": values["sampling_top_p"],
        "maxTokens": values["sampling_max_tokens"],
    }


def _trace(phase: Phase, rollout: Rollout) -> dict[str, JSON]:
    trajectory = rollout.trajectory
    return {
        "id": trajectory.trajectory_id,
        "prompt": trajectory.prompt,
        "reward": reward_of(rollout),
        "rewards": trajectory.rewards,
        "step": phase.step,
        "phase": phase.name,
        "attempts": 1 + len(rollout.earlier),
        "started_at": trajectory.created_at,
        "ended_at": rollout.ended_at,
        "turns": [
            {
                "request": turn.request,
                "response": turn.response,
                "started_at": turn.started_at,
                "ended_at": turn.started_at + turn.seconds,
            }
            for turn in trajectory.turns
        ],
    }
