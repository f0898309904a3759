"""Runs rollouts as the service does: starts at its pace, waits for the reward, and tries again what failed."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.agent_rft import AGENTCORE_CALL_SECONDS, LAMBDA_CALL_SECONDS, ROLLOUT_STARTS_PER_SECOND
from aws_rft_sdk.runtime.policies import Policy, Workers
from aws_rft_sdk.runtime.sagemaker.agents import Agent, AgentError
from aws_rft_sdk.runtime.sagemaker.policies import RoutingPolicy
from aws_rft_sdk.runtime.server import LocalRuntime
from aws_rft_sdk.types import Trajectory, TrajectoryStatus

REWARD_SECONDS = 60.0
"""How long a completed rollout may wait for its reward. The service's limit is not published."""
_KEPT = 4096
"""Rollouts of a job that the runtime keeps, the newest ones. The traces of the job keep all."""
_POLL_SECONDS = 0.05
_GRACE_SECONDS = 1.0
"""How long the call of an agent may go on after the reward arrived. Real seconds: the agent's clock is no faster."""
_OPENERS = 8  # threads that create trajectories


class RolloutFailure(Exception):
    """A rollout failed at every attempt, so its job fails. The text says why the last attempt failed."""


class Limits(NamedTuple):
    """What a job's hyperparameters and its agent say about rollouts, and how fast the clocks run."""

    concurrency: int
    attempts: int
    timeout_seconds: float
    """As the job says it, not divided by the speed."""
    call_seconds: float
    """Longest call of the agent, not divided by the speed."""
    speed: float = 1.0

    @classmethod
    def of(
        cls, agent: Mapping[str, JSON], values: Mapping[str, Any], *, speed: float, concurrency: int | None
    ) -> Limits:
        """Return the limits of a job.

        Args:
            agent: `AgentConfig` of its document.
            values: Its hyperparameters.
            speed: How much faster the clocks run.
            concurrency: Overrides the job's own. None does not.
        """
        return cls(
            concurrency or values["rollout_max_concurrency"],
            1 + values["rollout_max_retries"],
            values["rollout_timeout"],
            AGENTCORE_CALL_SECONDS if "BedrockAgentCoreConfig" in agent else LAMBDA_CALL_SECONDS,
            speed,
        )


class Sampling(NamedTuple):
    """What the payloads of a phase say about sampling, and who answers."""

    job_arn: str
    params: Mapping[str, float]
    policy: Policy | None


class Rollout(NamedTuple):
    """A rollout that got its reward."""

    trajectory: Trajectory
    """With turns and rewards."""
    ended_at: float
    """In seconds since 1970."""
    earlier: Sequence[Trajectory] = ()
    """Its failed attempts."""


class Rollouts:
    """Runs the rollouts of one job.

    Args:
        runtime: Serves the policy and takes rewards.
        router: The policy of the runtime.
        agent: Is called for each rollout.
        limits: Of the job.
        log: Gets a line for each failed attempt.

    Concurrency: call it in the server's event loop.
    """

    def __init__(
        self, runtime: LocalRuntime, router: RoutingPolicy, agent: Agent, limits: Limits, log: Callable[[str], None]
    ) -> None:
        self._runtime, self._router, self._agent, self._limits, self._log = runtime, router, agent, limits, log
        self._slots = asyncio.Semaphore(limits.concurrency)
        self._next_start = 0.0
        self._kept: deque[str] = deque()
        self._workers = Workers(_OPENERS, "aws-rft-rollouts")

    def close(self) -> None:
        """Let the threads end."""
        self._workers.close()

    async def run(
        self, prompts: Sequence[str], sampling: Sampling, done: Callable[[int], None] = lambda count: None
    ) -> list[Rollout]:
        """Run one rollout for each prompt, and return them in the order of the prompts.

        Args:
            prompts: Cells of the dataset. A cell that stands there several times is a group.
            sampling: Parameters of the payloads, and the policy.
            done: Called with the number of rollouts that have ended so far.

        Raises:
            RolloutFailure: A rollout failed at every attempt. The other ones are abandoned.
        """
        ended = 0

        async def one(prompt: str) -> Rollout:
            nonlocal ended
            async with self._slots:
                rollout = await self._attempts(prompt, sampling)
            ended += 1
            done(ended)
            return rollout

        tasks = [asyncio.create_task(one(prompt)) for prompt in prompts]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            surplus = len(self._kept) - _KEPT
            self._runtime.forget([self._kept.popleft() for _ in range(surplus)])

    async def _attempts(self, prompt: str, sampling: Sampling) -> Rollout:
        failed: list[Trajectory] = []
        while True:
            await self._turn_to_start()
            payload = await self._workers.run(functools.partial(self._open, prompt, sampling))
            rollout_id = payload["metadata"]["rolloutId"]
            self._kept.append(rollout_id)
            try:
                reason = await self._attempt(rollout_id, payload)
            finally:
                self._router.end(rollout_id)
            trajectory = await self._recorded(rollout_id, is_rewarded=reason is None)
            if reason is None:
                return Rollout(trajectory, time.time(), tuple(failed))
            failed.append(trajectory)
            self._log(f"rollout {rollout_id}: attempt {len(failed)} of {self._limits.attempts} failed: {reason}")
            if len(failed) == self._limits.attempts:
                raise RolloutFailure(f"Rollout {rollout_id} failed at all of its {len(failed)} attempts: {reason}")

    async def _recorded(self, rollout_id: str, *, is_rewarded: bool) -> Trajectory:
        """Return what the runtime has on disk, which may come a moment after what it knows."""
        while True:
            trajectory: Trajectory = await self._workers.run(functools.partial(self._runtime.trajectory, rollout_id))
            if not is_rewarded or trajectory.rewards is not None:
                return trajectory
            await asyncio.sleep(_POLL_SECONDS)

    async def _turn_to_start(self) -> None:
        now = time.monotonic()
        start = max(now, self._next_start)
        self._next_start = start + 1 / (ROLLOUT_STARTS_PER_SECOND * self._limits.speed)
        await asyncio.sleep(start - now)

    def _open(self, prompt: str, sampling: Sampling) -> dict[str, JSON]:
        with self._router.beginning(sampling.policy):
            return self._runtime.new_rollout(prompt, job_arn=sampling.job_arn, inference_params=sampling.params)

    async def _attempt(self, rollout_id: str, payload: Mapping[str, JSON]) -> str | None:
        """Run an attempt to its end. Returns why it failed, or None if it got its reward."""
        call = asyncio.create_task(self._agent.call(payload))
        try:
            reason = await self._judge(rollout_id, call)
            if reason is None:
                await asyncio.wait({call}, timeout=_GRACE_SECONDS)
            return reason
        finally:
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)

    async def _judge(self, rollout_id: str, call: asyncio.Task[None]) -> str | None:
        limits, began = self._limits, time.monotonic()
        completed_at: float | None = None
        while True:
            has_answered = call.done()  # asked first: what the agent did before its answer is then known below
            known = self._runtime.observe(rollout_id) or {}
            elapsed = (time.monotonic() - began) * limits.speed
            reason = _failure(known)
            if known["status"] == TrajectoryStatus.REWARD_RECEIVED or reason is not None:
                return reason
            if has_answered and (error := call.exception()) is not None:
                if not isinstance(error, AgentError):
                    raise error
                failed = f"the call of the agent failed: {error}"
                return failed if known["turns"] else f"no sampling requests were received for it, since {failed}"
            if known["status"] == TrajectoryStatus.READY:
                completed_at = elapsed if completed_at is None else completed_at
                if elapsed - completed_at >= REWARD_SECONDS:
                    return f"it was completed, and no reward arrived within {REWARD_SECONDS:g} s"
            if elapsed >= limits.timeout_seconds:
                return _timeout(known, limits.timeout_seconds)
            if elapsed >= limits.call_seconds and not call.done():
                return f"the call of the agent did not end within {limits.call_seconds:g} s"
            await self._wait(call)

    async def _wait(self, call: asyncio.Task[None]) -> None:
        """Wait until there may be news: the agent has answered, or it is time to look again."""
        if call.done():
            await asyncio.sleep(_POLL_SECONDS)
        else:
            await asyncio.wait({call}, timeout=_POLL_SECONDS)


def _failure(known: Mapping[str, JSON]) -> str | None:
    if known["status"] == TrajectoryStatus.FAILED:
        return "the agent signalled that the rollout failed (CompleteRollout with status failed)"
    if known["status"] != TrajectoryStatus.PENDING and known["turns"] == 0:
        return (
            "no sampling requests were received for it. Every rollout must call the policy with its job ARN and "
            "rollout id in the headers"
        )
    return None


def _timeout(known: Mapping[str, JSON], seconds: float) -> str:
    if known["turns"] == 0:
        return f"no sampling requests were received for it within rollout_timeout, {seconds:g} s"
    if known["status"] == TrajectoryStatus.READY:
        return f"it was completed, and no reward arrived within rollout_timeout, {seconds:g} s"
    return f"it did not end within rollout_timeout, {seconds:g} s, after {known['turns']} sampling requests"
