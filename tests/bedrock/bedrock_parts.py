"""What the tests of `LocalBedrock` share: rows, a policy, graders, and a real OpenAI client."""

from __future__ import annotations

import json
import random
import time

import boto3
import openai

ARN = "arn:aws:lambda:us-west-2:123456789012:function:gsm8k"
MODEL = "openai.gpt-oss-20b"
DEADLINE_SECONDS = 180


def rows(count=100):
    asked = [[{"role": "user", "content": f"{number} mod 2?"}] for number in range(count)]
    return [{"messages": messages, "reference_answer": str(n % 2)} for n, messages in enumerate(asked)]


def jsonl(items):
    return "\n".join(map(json.dumps, items)).encode()


def guess(request):
    """Answer 0 or 1: the same for the same seed."""
    return f"#### {random.Random(request.get('seed')).randint(0, 1)}"


def grader(event, context):
    """Score 1 for the right answer."""
    return [{"id": row["id"], "aggregate_reward_score": score(row)} for row in event]


def score(row):
    return float(row["messages"][-1]["content"].split()[-1] == row["metadata"]["reference_answer"])


def client_of(server, **options):
    return openai.OpenAI(**{"base_url": server.base_url, "api_key": "any", "max_retries": 0, **options})


def lambda_of(server, **options):
    keys = {"aws_access_key_id": "AKIDEXAMPLE", "aws_secret_access_key": "a-secret-for-tests"}
    return boto3.client("lambda", region_name="us-west-2", endpoint_url=server.endpoint, **{**keys, **options})


def upload(client, content=None):
    return client.files.create(file=("train.jsonl", content or jsonl(rows())), purpose="fine-tune")


def method(function=ARN, **hyperparameters):
    grader = {"type": "lambda", "lambda": {"function": function}}
    return {"type": "reinforcement", "reinforcement": {"grader": grader, "hyperparameters": hyperparameters}}


def create(client, content=None, *, function=ARN, hyperparameters=None, **more):
    body = {"method": method(function, **(hyperparameters or {"n_epochs": 1, "batch_size": 10})), **more}
    return client.fine_tuning.jobs.create(model=MODEL, training_file=upload(client, content).id, extra_body=body)


def wait_until(condition):
    """Return what `condition` returns once it is true."""
    ends = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < ends:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError("it did not happen in time")


def ended(client, job):
    """Return the job once it has ended, as JSON."""

    def look():
        now = client.fine_tuning.jobs.with_raw_response.retrieve(job.id).http_response.json()
        return now if now["finished_at"] else None

    return wait_until(look)


def events(client, job, limit=20):
    return list(client.fine_tuning.jobs.list_events(job.id, limit=limit))


def metrics(client, job):
    return [event.data for event in events(client, job) if event.type == "metrics"]
