"""The walkthrough's six steps as a program, for any interpreter: `python -m tests.jobs.six_steps URL AUTH FILE`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from aws_rft_sdk.adapters._http_library import http
from aws_rft_sdk.jobs import BedrockJobs, Checkpoint

GRADER = "arn:aws:lambda:us-west-2:123456789012:function:gsm8k"
MODEL = "openai.gpt-oss-20b"
_ID = re.compile(r"\w*-?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def six_steps(endpoint: str, auth: Any, train: Path, poll_seconds: float = 0.05) -> dict[str, Any]:
    """Return what a user sees of a job, without ids and times."""
    with BedrockJobs(base_url=endpoint, auth=auth) as jobs:
        file = jobs.upload(train)
        job = jobs.create(MODEL, file, GRADER, hyperparameters={"n_epochs": 1, "batch_size": 4})
        events = list(jobs.events(job, follow=True, poll_seconds=poll_seconds))
        again = list(jobs.events(job))
        job = jobs.get(job)
        checkpoints = jobs.checkpoints(job)
        question = [{"role": "user", "content": "2 + 2?"}]
        chat: Any = jobs.chat(job, question)
        response: Any = jobs.respond(job, "2 + 2?")
        return {
            "status": job.status,
            "events": [[_ID.sub("ID", event.message), event["data"]] for event in again],
            "followed": sorted(event.id for event in events) == sorted(event.id for event in again),
            "each_once": len({event.id for event in events}) == len(events),
            "jobs": [item.id for item in jobs.list()] == [job.id],
            "checkpoints": [item.step for item in checkpoints],
            "answers": [
                chat.choices[0].message.content,
                streamed(jobs, checkpoints[-1], question),
                response.output_text,
            ],
        }


def streamed(jobs: BedrockJobs, model: Checkpoint, question: list[dict[str, str]]) -> str:
    """Return a streamed answer. A stream that breaks is the user's to repeat."""
    while True:
        stream: Any = jobs.chat(model, question, stream=True)
        try:
            return "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)
        except http.TransportError:
            continue


if __name__ == "__main__":
    sys.stdout.write(json.dumps(six_steps(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))
