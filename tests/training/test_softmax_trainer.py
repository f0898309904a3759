"""A job of `LocalBedrock` that learns, from upload to the tuned model, through the clients of a user."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random
from statistics import fmean

from aws_rft_sdk.jobs import BedrockJobs
from aws_rft_sdk.jobs.steps import read_step
from aws_rft_sdk.rewards import gsm8k, reward_lambda
from aws_rft_sdk.runtime import LocalBedrock
from aws_rft_sdk.training import arithmetic
from aws_rft_sdk.training.softmax import SoftmaxTrainer

ARN = "arn:aws:lambda:us-west-2:123456789012:function:grader"


def test_job_when_a_trainer_learns_then_the_curve_rises_and_the_tuned_model_solves_new_problems(
    tmp_path: Path,
) -> None:
    tests = arithmetic.problems(40, Random(1))
    tasks = arithmetic.problems(120, Random(2), without=[question for question, _ in tests])
    rows = [
        {"messages": [{"role": "user", "content": question}], "reference_answer": {"text": answer}}
        for question, answer in tasks
    ]
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    trainer = SoftmaxTrainer(arithmetic.decide, arithmetic.untrained())
    with (
        LocalBedrock(trainer=trainer, functions={ARN: reward_lambda(gsm8k)}) as bedrock,
        BedrockJobs(base_url=bedrock.base_url) as jobs,
    ):
        settings = {"n_epochs": 1, "batch_size": 12, "learning_rate_multiplier": 1.5}
        job = jobs.create("openai.gpt-oss-20b", jobs.upload(file), ARN, hyperparameters=settings)
        steps = [
            step for event in jobs.events(job, follow=True, poll_seconds=0.05) if (step := read_step(event)) is not None
        ]
        done = jobs.get(job)
        assert done.state == "succeeded", done.failure

        def solved(model: str) -> float:
            said = [jobs.chat(model, [{"role": "user", "content": question}]) for question, _ in tests]
            texts = [answer.choices[0].message.content or "" for answer in said]
            return fmean(
                re.findall(r"#### (\S+)", text) == [gold] for text, (_, gold) in zip(texts, tests, strict=True)
            )

        assert [step.step for step in steps] == list(range(1, 11))
        rewards = [step.reward_mean or 0.0 for step in steps]
        assert fmean(rewards[-3:]) > fmean(rewards[:3]) + 0.3
        assert (steps[-1].entropy or 9) < (steps[0].entropy or 0)
        assert solved(done.tuned_model or "") > solved("openai.gpt-oss-20b") + 0.3
        assert solved(jobs.checkpoints(job)[-1].model) > 0.5
