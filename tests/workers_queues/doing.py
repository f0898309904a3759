"""What the tests of the queue workers share: clients, bounded waiting, a handler, and looks into a queue."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from openai import OpenAI

from aws_rft_sdk import RFTContext, rft_handler
from aws_rft_sdk.runtime import LocalRuntime

REGION = "us-west-2"


class Aws(NamedTuple):
    sqs: Any
    dynamodb: Any

    def send(self, url: str, *bodies: Any, group: str | None = None) -> None:
        for body in bodies:
            text = body if isinstance(body, str) else json.dumps(body)
            fifo = {}
            if url.endswith(".fifo"):
                fifo = {"MessageGroupId": group or str(hash(text)), "MessageDeduplicationId": f"{time.monotonic_ns()}"}
            self.sqs.send_message(QueueUrl=url, MessageBody=text, **fifo)

    def count(self, url: str) -> int:
        """Messages in a queue, hidden ones included."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]

        def look() -> int:
            attributes = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
            return sum(int(attributes[name]) for name in names)

        # moto counts the two one after the other, and misses those that are shown again in between.
        return max(look(), look())

    def take(self, url: str, count: int = 10) -> list[dict[str, Any]]:
        """Receive and delete what is visible."""
        answer = self.sqs.receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=count,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        messages: list[dict[str, Any]] = answer.get("Messages", [])
        for message in messages:
            self.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return messages


def eventually(what: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Return what `what` returns once that is true; fail when it does not become so."""
    pause, end = threading.Event(), time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end, "it did not become true in time"
        pause.wait(0.02)
    return value


class Agent:
    """A handler that makes one inference call, counts its runs and waits where it is told to."""

    def __init__(self, turns: int = 1, **options: Any) -> None:
        self.runs: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.began = threading.Semaphore(0)
        self.broken: dict[str, int] = {}
        """Trajectories that return no reward, and how often."""
        self._turns = turns
        self.handler = rft_handler(**options)(self.run) if options else rft_handler(self.run)

    def run(self, payload: dict[str, Any]) -> dict[str, Any]:
        trajectory_id = payload.get("sampleId") or payload["metadata"]["rolloutId"]
        self.runs.append(trajectory_id)
        self.began.release()
        assert self.gate.wait(30)
        messages = [{"role": "user", "content": payload["prompt"]}]
        with OpenAI(base_url=f"{payload['metadata']['endpoint']}/v1", api_key="none", max_retries=0) as client:
            for _ in range(self._turns):
                headers = RFTContext.get_headers()
                answer = client.chat.completions.create(model="m", messages=messages, extra_headers=headers)
                messages.append({"role": "assistant", "content": answer.choices[0].message.content})
                messages.append({"role": "user", "content": "go on"})
        if self.broken.get(trajectory_id, 0) > 0:
            self.broken[trajectory_id] -= 1
            return {"reward": None}
        return {"reward": 1.0}


def rewards(runtime: LocalRuntime) -> list[tuple[float, ...] | None]:
    return [trajectory.rewards for trajectory in runtime.trajectories()]
