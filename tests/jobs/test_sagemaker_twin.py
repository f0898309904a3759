"""`AgentRFT` against `LocalJobs`, where a softmax policy really learns."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from random import Random
from typing import Any

import boto3

from aws_rft_sdk.datasets import unpack
from aws_rft_sdk.handler import rft_handler
from aws_rft_sdk.jobs import AgentRFT, read_steps
from aws_rft_sdk.rewards import Rollout, evaluate, gsm8k
from aws_rft_sdk.runtime import LocalJobs
from aws_rft_sdk.training import arithmetic
from aws_rft_sdk.training.softmax import SoftmaxTrainer
from tests.jobs.test_sagemaker import parameters

POLL = 0.05
NUMBERS = {
    **{"global_batch_size": "32", "group_size": "2", "max_steps": "2", "max_epochs": "2", "val_every": "2"},
    "rollout_timeout": "86400",
}
FIRST_STEP = 4 + 32 * 2
"""Rollouts until the first step is made: a validation of 4 prompts before it, then its groups."""


def write(path: Path, count: int, random: Random) -> Path:
    rows = [{"prompt": arithmetic.prompt_cell(*problem)} for problem in arithmetic.problems(count, random)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_job_when_stopped_and_resumed_on_the_twin_then_steps_go_on_and_evaluations_are_paired(tmp_path: Path) -> None:
    released, ended = threading.Event(), []

    @rft_handler(on_error="failed")
    async def handler(payload: dict[str, Any]) -> dict[str, Any]:
        if len(ended) >= FIRST_STEP and not released.is_set():  # the job cannot end before it is stopped
            await asyncio.Event().wait()
        task = unpack(payload["prompt"])
        answer = await arithmetic.solve(str(task))
        ended.append(task)
        return {"reward": evaluate(gsm8k, Rollout.of_answer(answer, task.ground_truth)).reward}

    trainer, random = SoftmaxTrainer(arithmetic.decide, arithmetic.untrained()), Random(1)
    session = boto3.session.Session("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
    with LocalJobs(handler, trainer=trainer, speed=30, concurrency=8) as twin:
        jobs = AgentRFT(session=session, endpoint_url=twin.endpoint)
        for group in ("calc", "calc-ckpt"):
            jobs.client("sagemaker").create_model_package_group(ModelPackageGroupName=group)
        files = {
            "train": write(tmp_path / "train.jsonl", 33, random),
            "validation": write(tmp_path / "v.jsonl", 4, random),
        }
        data = {name: jobs.upload(path, "s3://bucket/data", check=False).id for name, path in files.items()}
        asked = parameters(**data, hyperparameters=NUMBERS)
        assert jobs.create(asked)["JobArn"] == jobs.create(asked)["JobArn"]
        told = []
        for event in jobs.events("calc-1", follow=True, poll_seconds=POLL):
            told.append(event)
            if event.message == "metrics of step 1":
                jobs.stop("calc-1")
        assert jobs.wait("calc-1").state == "cancelled"
        released.set()
        steps = read_steps(told)
        assert [step.step for step in steps][:2] == [0, 1]
        assert steps[0].validation_reward_mean is not None
        assert steps[1].reward_mean is not None
        assert [(item.step, item["resumable"]) for item in jobs.checkpoints("calc-1")] == [(1, False), (1, True)]
        jobs.resume("calc-1", "calc-2")
        assert jobs.wait("calc-2", poll_seconds=POLL).state == "succeeded"
        resumed = read_steps(jobs.events("calc-2"))
        assert [step.step for step in resumed if step.reward_mean is not None] == [2]
        assert resumed[-1].validation_reward_mean is not None
        assert list(jobs.logs("calc-2")) == list(jobs.logs("calc-2", follow=True, poll_seconds=POLL))
        found = jobs.evaluate("calc-2", hyperparameters={"eval_group_size": 2}, poll_seconds=POLL)
        assert found.comparison is not None
        assert (found.comparison.paired, found.comparison.prompts, found.note) == (True, 4, "")
        means = next(row for row in found.comparison.differences if row.name.endswith("/mean"))
        assert abs(means.b - found.tuned_metrics["eval/reward/mean"]) < 1e-9
        assert [job.id for job in jobs.list()] == ["calc-2-eval-tuned", "calc-2-eval-base", "calc-2", "calc-1"]
        jobs.delete("calc-1")
        assert "calc-1" not in [job.id for job in jobs.list()]
