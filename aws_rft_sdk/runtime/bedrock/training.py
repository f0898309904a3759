"""Runs the jobs: reads the file, samples, grades, lets the trainer learn, and says so, step by step.

A step is one transaction: its metrics, its checkpoint and what was learnt. So a job that was interrupted goes on with
the step after the last complete one, and no step is lost or done twice.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import sqlite3
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from aws_rft_sdk._backoff import Backoff, parse_retry_after
from aws_rft_sdk._checks import is_number
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runtime import chat
from aws_rft_sdk.runtime._database import JobEndedError
from aws_rft_sdk.runtime.answers import Refusal, encode
from aws_rft_sdk.runtime.bedrock.dataset import DatasetError, Row, read_rows
from aws_rft_sdk.runtime.bedrock.functions import Functions
from aws_rft_sdk.runtime.bedrock.grading import GraderError, GraderInput, Score, grade, make_sample
from aws_rft_sdk.runtime.bedrock.models import Models
from aws_rft_sdk.runtime.bedrock.store import CheckpointRow, Event, Store
from aws_rft_sdk.runtime.bedrock.trainers import Group, Sample, Trainer, TrainingStep, Update
from aws_rft_sdk.runtime.decode import Tracking
from aws_rft_sdk.runtime.inference import Inquiry, ask, read_whole
from aws_rft_sdk.runtime.policies import Call, Policy, Workers
from aws_rft_sdk.wire import CHAT_COMPLETIONS_PATH

logger = logging.getLogger(__name__)

CHECKPOINTS = 4
"""Checkpoints of a job, evenly spread over its steps, as in the walkthrough."""
_CONCURRENT_SAMPLES = 64
_STD_FLOOR = 1e-4  # what TRL adds to the standard deviation of a group
_ACTOR_METRICS = ("entropy", "pg_loss", "grad_norm")
_TRAINERS = 64  # jobs in which a trainer learns at the same time
_TEMPERATURE = 1.0
_BUSY = (429, 503)  # statuses of a policy that is asked again
_ATTEMPTS = 6
_BACKOFF = Backoff()


class JobFailure(Exception):
    """The job ends as failed.

    Args:
        code: For programs.
        message: What is wrong.
        param: The field of the request that is to blame. None if no field is.
    """

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.error: dict[str, JSON] = {"code": code, "message": message, "param": param}


class Jobs:
    """Runs each job as a task of the server's event loop.

    Args:
        store: Holds the jobs.
        models: The policies that are sampled.
        functions: The graders.
        trainer: Learns between the steps. None if nothing learns.
        group: Samples of each prompt.
        grader_input: Where graders find the reference answer.

    Concurrency: call it in the server's event loop.
    """

    def __init__(
        self,
        store: Store,
        models: Models,
        functions: Functions,
        trainer: Trainer | None,
        *,
        group: int,
        grader_input: GraderInput,
    ) -> None:
        self._store, self._models, self._functions, self._trainer = store, models, functions, trainer
        self._group, self._grader_input = group, grader_input
        self._workers = Workers(_TRAINERS, "aws-rft-trainer")
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def go_on(self) -> None:
        """Go on with the jobs that have not ended."""
        for doc in self._store.all("jobs"):
            if doc["finished_at"] is None:
                self.start(str(doc["id"]))

    def start(self, job_id: str) -> None:
        """Run a job."""
        self._tasks[job_id] = task = asyncio.create_task(self._run(job_id))
        task.add_done_callback(lambda _: self._tasks.pop(job_id, None))

    def cancel(self, job_id: str) -> dict[str, JSON]:
        """End a job as cancelled. Returns the job.

        Raises:
            JobEndedError: It has ended already.
        """
        doc = self._store.advance(job_id, [Event("Fine-tuning job cancelled", "warn")], status="cancelled")
        if task := self._tasks.get(job_id):
            task.cancel()
        return doc

    def stop(self) -> None:
        """End all tasks, and leave the jobs as they are. A trainer in the middle of a step is not waited for."""
        for task in self._tasks.values():
            task.cancel()
        self._workers.close()

    async def _run(self, job_id: str) -> None:
        """Run a job to its end, from wherever it stands."""
        try:
            try:
                await self._train(job_id)
            except JobFailure as failure:
                self._fail(job_id, failure)
            except (JobEndedError, sqlite3.Error):
                raise
            except Exception as error:
                logger.exception("job=<%s> | the job failed", job_id)
                self._fail(job_id, JobFailure("server_error", f"{type(error).__name__}: {error}"))
        except JobEndedError:
            pass  # cancelled, or the server has stopped
        except sqlite3.Error:  # the disk may be full, which is not the job's fault
            logger.exception("job=<%s> | the database cannot be used; the next server goes on with the job", job_id)

    def _fail(self, job_id: str, failure: JobFailure) -> None:
        text = f"Fine-tuning job failed: {failure}"
        self._store.advance(job_id, [Event(text, "error")], status="failed", error=failure.error)

    async def _train(self, job_id: str) -> None:
        doc = self._store.get("jobs", job_id)
        assert doc is not None  # noqa: S101 - jobs are never deleted; for the type checker
        rows = await self._workers.run(functools.partial(self._read_files, doc))
        settings: dict[str, float] = doc["hyperparameters"]
        size = int(settings["batch_size"])
        total = int(settings["n_epochs"]) * -(-len(rows) // size)
        if doc["status"] == "validating_files":
            doc = self._store.advance(job_id, [Event("Files validated, the job is queued")], status="queued")
        if doc["status"] == "queued":
            self._store.advance(job_id, [Event("Fine-tuning job started")], status="running")
        done, state = self._store.progress(job_id)
        marks = {round(total * part / CHECKPOINTS) for part in range(1, CHECKPOINTS + 1)}
        for number in range(done + 1, total + 1):
            groups = await self._graded(doc, _batch(rows, size, number), state)
            step = TrainingStep(job_id, number, total, settings, int(doc["seed"]), groups)
            update: Update | None = None
            if self._trainer is not None:
                update = await self._workers.run(functools.partial(self._trainer.step, state, step))
            state = None if update is None else update.state
            self._finish_step(doc, step, update, is_mark=number in marks)
        completed = [Event("The job has successfully completed")]
        self._store.advance(job_id, completed, status="succeeded", fine_tuned_model=_tuned(doc))

    def _read_files(self, doc: Mapping[str, Any]) -> list[Row]:
        rows: dict[str, list[Row]] = {}
        for param in ("training_file", "validation_file"):
            if doc[param] is not None:
                try:
                    rows[param] = read_rows(self._store.content(doc[param]))
                except DatasetError as error:
                    raise JobFailure(f"invalid_{param}", f"{param} {doc[param]}: {error}", param) from None
        return rows["training_file"]

    # --- one step ----------------------------------------------------------------------------------------------------

    async def _graded(self, doc: Mapping[str, Any], batch: list[tuple[str, Row]], state: bytes | None) -> list[Group]:
        width = self._group
        asked = [(row, f"{name}-{number}") for name, row in batch for number in range(width)]
        completions = await self._sampled(
            [(f"{doc['seed']}-{name}", _request(doc, name, row)) for row, name in asked], state
        )
        samples = [
            make_sample(row, _grader_id(row, name), completion["choices"][0]["message"], self._grader_input)
            for (row, name), completion in zip(asked, completions, strict=True)
        ]
        function = doc["method"]["reinforcement"]["grader"]["lambda"]["function"]
        try:
            scores = await grade(self._functions, function, samples)
        except GraderError as error:
            raise JobFailure("grader_error", str(error), "method.reinforcement.grader") from None
        return [
            Group(row, _scored(completions[at : at + width], scores[at : at + width]))
            for at, (_, row) in zip(range(0, len(scores), width), batch, strict=True)
        ]

    async def _sampled(
        self, requests: Sequence[tuple[str, dict[str, JSON]]], state: bytes | None
    ) -> list[Mapping[str, Any]]:
        policy = await self._models.policy_at(state)
        gate = asyncio.Semaphore(_CONCURRENT_SAMPLES)

        async def one(name: str, request: dict[str, JSON]) -> Mapping[str, Any]:
            body = encode(request)
            inquiry = Inquiry(CHAT_COMPLETIONS_PATH, Tracking(None, None, None), request, body, False, None, None)
            async with gate:
                # The id is the same in every run, so that policies with a seed repeat themselves.
                call = Call(request, body, False, trajectory_id=name, turn=0)
                completion = await _ask_patiently(policy, call, inquiry)
            return chat.read_answer(completion, request)

        try:
            return await asyncio.gather(*(one(*request) for request in requests))
        except (Refusal, chat.AnswerError) as error:
            raise JobFailure("server_error", f"sampling failed: {error}") from error

    def _finish_step(self, doc: Mapping[str, Any], step: TrainingStep, update: Update | None, *, is_mark: bool) -> None:
        figures = {} if update is None else update.metrics
        for name, value in figures.items():
            if not is_number(value):
                raise JobFailure("server_error", f"the trainer's metric {name} is {value!r:.40}, no finite number")
        metrics = step_metrics(step, figures)
        events = [Event(f"Step {step.step}/{step.total_steps}: training metrics", data=metrics)]
        checkpoint = None
        if is_mark:
            model = f"{_tuned(doc)}:ckpt-step-{step.step}"
            short = {name: metrics[name] for name in ("step", "critic_rewards_mean")}
            checkpoint = CheckpointRow(step.step, model, short)
            events.append(Event(f"Checkpoint created at step {step.step}: {model}"))
        state = None if update is None else update.state
        self._store.advance(step.job_id, events, step=(step.step, state), checkpoint=checkpoint)


async def _ask_patiently(policy: Policy | None, call: Call, inquiry: Inquiry) -> Mapping[str, Any]:
    """Return the policy's answer. Asks a policy that is busy again, up to `_ATTEMPTS` times in all.

    Raises:
        Refusal: The policy refused or failed, or was still busy at the last attempt.
    """
    attempt = 1
    while True:
        try:
            return (await read_whole(await ask(policy, call), inquiry))[0]
        except Refusal as refusal:
            if refusal.status not in _BUSY or attempt == _ATTEMPTS:
                raise
            await asyncio.sleep(_BACKOFF.delay(attempt, parse_retry_after(refusal.retry_after)))
        attempt += 1


def _batch(rows: list[Row], size: int, step: int) -> list[tuple[str, Row]]:
    """Return the rows of a step with a name for each row, in the order of the file. An epoch's last may be smaller."""
    epoch, part = divmod(step - 1, -(-len(rows) // size))
    return [(f"{epoch}-{at}", rows[at]) for at in range(part * size, min((part + 1) * size, len(rows)))]


def _request(doc: Mapping[str, Any], name: str, row: Row) -> dict[str, JSON]:
    """Return the chat request of a sample. Its seed depends on nothing but the job's seed and the sample's name."""
    digest = hashlib.sha256(f"{doc['seed']} {name}".encode()).digest()
    seed = int.from_bytes(digest[:4], "big") >> 1
    return {"model": doc["model"], "messages": row["messages"], "temperature": _TEMPERATURE, "seed": seed}


def _grader_id(row: Row, name: str) -> str:
    """Return the id of a sample: that of its row and the number of the sample, so that ids differ within an event."""
    return f"{row['id']}-{name.rpartition('-')[2]}" if "id" in row else f"row-{name}"


def _scored(completions: Sequence[Mapping[str, Any]], scores: Sequence[Score]) -> list[Sample]:
    rewards = [score.reward for score in scores]
    mean, std = statistics.fmean(rewards), statistics.pstdev(rewards)
    return [
        Sample(completion, score.reward, 0.0 if std == 0 else (score.reward - mean) / (std + _STD_FLOOR), score.metrics)
        for completion, score in zip(completions, scores, strict=True)
    ]


def step_metrics(step: TrainingStep, learnt: Mapping[str, float]) -> dict[str, JSON]:
    """Return the data of a metrics event. A figure of the trainer that nobody computed is null."""
    samples = [sample for group in step.groups for sample in group.samples]
    metrics: dict[str, JSON] = {
        "step": step.step,
        "total_steps": step.total_steps,
        "critic_rewards_mean": statistics.fmean(sample.reward for sample in samples),
        "critic_advantages_mean": statistics.fmean(sample.advantage for sample in samples),
        "response_length_mean": statistics.fmean(_length(sample.completion) for sample in samples),
    }
    for name in _ACTOR_METRICS:
        metrics[f"actor_{name}"] = learnt.get(name)
    return metrics | {name: value for name, value in learnt.items() if name not in _ACTOR_METRICS}


def _length(completion: Mapping[str, Any]) -> int:
    """Return the tokens of a completion, or its words if the policy does not count tokens."""
    usage = completion.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, Mapping) else None
    if isinstance(tokens, int):
        return tokens
    return len(str(completion["choices"][0]["message"].get("content") or "").split())


def _tuned(doc: Mapping[str, Any]) -> str:
    return f"ft:{doc['model']}:{str(doc['id']).removeprefix('ftjob-')}"
