"""From rows of question and answer to a chat with the tuned model, in six steps.

    python run.py --local                   everything on this machine, in seconds
    python run.py --endpoint URL            the same against a stand-in that runs already
    python run.py [--region us-west-2]      on AWS, with your credentials; this costs money

A stand-in must have a handler under the name `gsm8k`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path

import grader as gsm8k
import policy
from problems import problems

from aws_rft_sdk.jobs import BedrockJobs, Grader, graders
from aws_rft_sdk.jobs.steps import read_step
from aws_rft_sdk.rewards import Rollout, evaluate
from aws_rft_sdk.runtime import LocalBedrock

HERE = Path(__file__).parent
FUNCTION = "gsm8k"
INSTRUCTION = 'Think step by step, and end with a line "#### " and the number.'
TRAIN, HELD_OUT = problems(140)[:120], problems(140)[120:]
SETTINGS = {"n_epochs": 1, "batch_size": 4, "learning_rate_multiplier": 0.5}


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def prompt(question: str) -> list[dict[str, str]]:
    """Return the messages that the model gets for a question."""
    return [{"role": "user", "content": f"{question} {INSTRUCTION}"}]


def write_rows(path: Path) -> Path:
    """Write the training file, and return its path."""
    rows = [{"messages": prompt(item["question"]), "reference_answer": item["answer"]} for item in TRAIN]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def deploy_grader(train: Path, region: str, endpoint: str | None) -> str:
    """Return the ARN of the grader. On AWS it is deployed first, and tried; a stand-in has it already."""
    if endpoint is not None:
        return f"arn:aws:lambda:{region}:123456789012:function:{FUNCTION}"
    grader = Grader(reward=f"{HERE / 'grader.py'}:reward", name=FUNCTION)
    return graders.deploy(grader, samples=train, region=region, say=say).arn


def follow(jobs: BedrockJobs, job: str, poll_seconds: float) -> None:
    """Print what a job says until it has ended."""
    for event in jobs.events(job, follow=True, poll_seconds=poll_seconds):
        step = read_step(event)
        say(event.message if step is None else f"step {step.step}/{step.total_steps}  reward {step.reward_mean:.3f}")


def solved(jobs: BedrockJobs, model: str) -> int:
    """Return how many of the problems that are not in the training file a model solves."""
    said = [jobs.chat(model, prompt(item["question"])).choices[0].message.content for item in HELD_OUT]
    rollouts = [Rollout.of_answer(text, item["answer"]) for text, item in zip(said, HELD_OUT, strict=True)]
    return sum(evaluate(gsm8k.reward, rollout).reward == 1 for rollout in rollouts)


def main(region: str, model: str, endpoint: str | None) -> None:
    """Do the six steps."""
    with BedrockJobs(region, base_url=endpoint) as jobs, tempfile.TemporaryDirectory() as folder:  # 1. configure
        train = write_rows(Path(folder) / "train.jsonl")
        file = jobs.upload(train)  # 2. upload data
        arn = deploy_grader(train, region, endpoint)  # 3. deploy the grader
        job = jobs.create(model, file, arn, hyperparameters=SETTINGS)  # 4. create the job
        say(f"job {job.id}; Ctrl-C stops watching, not the job")
        follow(jobs, job.id, 10.0 if endpoint is None else 0.2)  # 5. monitor it
        job = jobs.get(job)
        if job.tuned_model is None:
            raise SystemExit(f"the job has ended as {job.status}: {job.failure}")
        for checkpoint in jobs.checkpoints(job):
            say(f"checkpoint after step {checkpoint.step}: {checkpoint.model}")
        counts = [solved(jobs, name) for name in (model, job.tuned_model)]  # 6. use the tuned model
        say(f"of {len(HELD_OUT)} new problems {model} solves {counts[0]}, the tuned model {counts[1]}")
        question = HELD_OUT[0]["question"]
        answer = jobs.chat(job, prompt(question))
        say(f"\n{question}\n\n{job.tuned_model} says:\n{answer.choices[0].message.content}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--local", action="store_true", help="start a stand-in for Bedrock, and use it")
    where.add_argument("--endpoint", metavar="URL", help="a stand-in that runs already")
    parser.add_argument("--region", default="us-west-2")
    parser.add_argument("--model", default="openai.gpt-oss-20b")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if options.local:
            server = stack.enter_context(LocalBedrock(trainer=policy.trainer, functions={FUNCTION: gsm8k.handler}))
            options.endpoint = server.endpoint
        main(options.region, options.model, options.endpoint)
