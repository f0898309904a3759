"""Runs the jobs of `LocalJobs`: each is a task of the server's event loop."""

from __future__ import annotations

import asyncio
import functools
import logging
import sqlite3
from collections.abc import Mapping
from typing import Any

from aws_rft_sdk.agent_rft import (
    EVALUATION_HYPERPARAMETERS,
    EVALUATION_MAX_RUNTIME_SECONDS,
    MAX_RUNTIME_SECONDS,
    TRAINING,
    Hyperparameter,
    find_model,
)
from aws_rft_sdk.runtime._database import JobEndedError
from aws_rft_sdk.runtime.bedrock.trainers import Trainer
from aws_rft_sdk.runtime.policies import Policy, Workers
from aws_rft_sdk.runtime.sagemaker.agents import Agent
from aws_rft_sdk.runtime.sagemaker.evaluating import evaluate
from aws_rft_sdk.runtime.sagemaker.objects import Objects
from aws_rft_sdk.runtime.sagemaker.phases import Job, JobFailure, Policies, Usage
from aws_rft_sdk.runtime.sagemaker.policies import RoutingPolicy
from aws_rft_sdk.runtime.sagemaker.prompts import ChannelError
from aws_rft_sdk.runtime.sagemaker.rollouts import Limits, RolloutFailure, Rollouts
from aws_rft_sdk.runtime.sagemaker.rows import JobRow
from aws_rft_sdk.runtime.sagemaker.store import ENDED, Store
from aws_rft_sdk.runtime.sagemaker.tuning import tune
from aws_rft_sdk.runtime.server import LocalRuntime

logger = logging.getLogger(__name__)

_THREADS = 8


class Jobs:
    """Runs training jobs and evaluations, which share a runtime.

    Args:
        store: Holds the jobs.
        objects: Holds the datasets.
        runtime: Serves the policy and takes rewards. Its policy is replaced by one that knows the jobs.
        agent: Is called for each rollout.
        policy: Answers for the base model if nothing learns, and for rollouts that belong to no job.
        trainer: Learns between the steps. None if nothing learns.
        speed: How much faster the service's clocks run.
        concurrency: Rollouts at a time of each job. None for the job's own `rollout_max_concurrency`.

    Concurrency: call it in the server's event loop.
    """

    def __init__(
        self,
        store: Store,
        objects: Objects,
        runtime: LocalRuntime,
        agent: Agent,
        policy: Policy | None,
        trainer: Trainer | None,
        *,
        speed: float = 1.0,
        concurrency: int | None = None,
    ) -> None:
        self._store, self._objects, self._runtime, self._agent = store, objects, runtime, agent
        self._base, self._trainer = policy, trainer
        self._speed, self._concurrency = speed, concurrency
        runtime.policy = self._router = RoutingPolicy(policy)
        self._workers = Workers(_THREADS, "aws-rft-jobs")
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def go_on(self) -> None:
        """Go on with the jobs that have not ended."""
        for row in self._store.jobs():
            if row.status == "Stopping":
                self._end_stopped(row)
            elif row.status not in ENDED:
                self._store.forget_unfinished_traces(row)
                done, _ = self._store.progress(row)
                self._store.advance(row, secondary="Restarting", message=f"The job goes on after step {done}")
                self.start(row)

    def start(self, row: JobRow) -> None:
        """Begin to run a job."""
        self._tasks[row.number] = task = asyncio.create_task(self._run(row))
        task.add_done_callback(lambda _: self._tasks.pop(row.number, None))

    def stop(self, row: JobRow) -> None:
        """End a job as stopped. Its rollouts in progress are abandoned."""
        task = self._tasks.get(row.number)
        if task is None:
            self._end_stopped(row)
            return
        task.add_done_callback(lambda _: self._end_stopped(row))
        task.cancel()

    def _end_stopped(self, row: JobRow) -> None:
        try:
            self._store.advance(row, status="Stopped", message="The job was stopped")
        except JobEndedError:
            pass  # it ended in the meantime

    def close(self) -> None:
        """End all tasks, and leave the jobs as they are. Another `Jobs` with the same store goes on with them.

        A trainer in the middle of a step is not waited for.
        """
        for task in self._tasks.values():
            task.cancel()
        self._workers.close()

    async def aclose(self) -> None:
        """Do what `close` does, and release the connections of the agent."""
        tasks = list(self._tasks.values())
        self.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._agent.aclose()

    # --- one job -----------------------------------------------------------------------------------------------------

    async def _run(self, row: JobRow) -> None:
        """Run a job to its end, from wherever it stands."""
        condition = row.document.get("StoppingCondition", {})
        default = MAX_RUNTIME_SECONDS if row.category == TRAINING else EVALUATION_MAX_RUNTIME_SECONDS
        limit = condition.get("MaxRuntimeInSeconds", default)
        life = asyncio.create_task(self._live(row))
        try:
            await asyncio.wait({life}, timeout=limit / self._speed)
            if not life.done():
                text = f"The job ran longer than MaxRuntimeInSeconds, {limit}"
                self._store.advance(row, status="Stopped", secondary="MaxRuntimeExceeded", message=text)
        except JobEndedError:
            pass
        finally:
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)

    async def _live(self, row: JobRow) -> None:
        try:
            try:
                await self._work(row)
            except (JobFailure, RolloutFailure, ChannelError) as failure:
                self._fail(row, str(failure))
            except (JobEndedError, sqlite3.Error):
                raise
            except Exception as error:
                logger.exception("job=<%s> | the job failed", row.name)
                self._fail(row, f"Internal error: {type(error).__name__}: {error}")
        except JobEndedError:
            pass  # stopped, or the server has stopped
        except sqlite3.Error:  # the disk may be full, which is not the job's fault
            logger.exception("job=<%s> | the database cannot be used; the next server goes on with the job", row.name)

    def _fail(self, row: JobRow, reason: str) -> None:
        self._store.log(row, reason)
        self._store.advance(row, status="Failed", failure=reason, message=reason)

    async def _work(self, row: JobRow) -> None:
        known = self._store.job(row.category, row.name) or row
        is_training = row.category == TRAINING
        config = row.document["TrainingConfig" if is_training else "EvaluationConfig"]
        model = find_model(config["BaseModelArn"])
        assert model is not None  # noqa: S101 - the control plane has checked it; for the type checker
        named = model.hyperparameters if is_training else EVALUATION_HYPERPARAMETERS
        values = _read(config.get("HyperParameters", {}), named)
        agent = row.document["AgentConfig"]
        limits = Limits.of(agent, values, speed=self._speed, concurrency=self._concurrency)
        rollouts = Rollouts(self._runtime, self._router, self._agent, limits, functools.partial(self._store.log, row))
        policies = Policies(self._router, self._base, self._trainer)
        job = Job(
            row=row,
            store=self._store,
            objects=self._objects,
            rollouts=rollouts,
            policies=policies,
            trainer=self._trainer,
            workers=self._workers,
            values=values,
            usage=Usage(known.output),
        )
        try:
            self._store.advance(row, secondary="Downloading", message="Downloading the dataset")
            await (tune(job, model) if is_training else evaluate(job))
            self._store.advance(row, secondary="Uploading", message="Uploading the results")
            self._store.advance(row, status="Completed", message="The job has completed")
        finally:
            rollouts.close()
            policies.close()


def _read(document: Mapping[str, str], named: Mapping[str, Hyperparameter]) -> dict[str, Any]:
    return {name: rule.read(document.get(name, rule.default)) for name, rule in named.items()}
