"""A stand-in for the Nova Forge trainer: asks for rollouts, answers turns out of order and twice, takes the scores."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections import Counter
from typing import Any

from .doing import Aws


def digest_of(messages: Any) -> str:
    return hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()[:16]


class Trainer:
    """Answers each turn with a digest of the conversation, so that an answer in the wrong place is seen."""

    def __init__(self, aws: Aws, queues: Any, *, seed: int = 7, doubled: bool = True) -> None:
        self.asked: Counter[str] = Counter()
        self.requests: list[dict[str, Any]] = []
        self.responses: list[dict[str, Any]] = []
        self.silent: set[str] = set()
        """Steps that are never answered."""
        self.held = threading.Event()
        """While it is set, no turn is answered."""
        self._aws, self._queues, self._doubled = aws, queues, doubled
        self._random = random.Random(seed)
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=fn, daemon=True) for fn in (self._answer, self._collect)]

    def __enter__(self) -> Trainer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(10)

    def ask(
        self, *sample_ids: str, data: Any = "2 + 2?", limits: tuple[float, float] = (0.0, 1.0), **extra: Any
    ) -> None:
        for sample_id in sample_ids:
            body = {
                "version": "v0",
                "timestamp": "2026-11-20T00:00:00Z",
                "sample_id": sample_id,
                "max_length": 512,
                "rewards": {"range": list(limits)},
                "data": data,
            }
            self._aws.send(self._queues.rollout_requests, body, group=sample_id)

    @property
    def scores(self) -> dict[str, float | None]:
        return {item["sample_id"]: item["rewards"]["aggregate_score"] for item in self.responses}

    def _answer(self) -> None:
        waiting: list[dict[str, Any]] = []
        while not self._stopping.is_set():
            for message in self._aws.take(self._queues.generate_requests):
                request = json.loads(message["Body"])
                self.requests.append(request)
                self.asked[request["step_id"]] += 1
                if request["step_id"] not in self.silent:
                    waiting += [request, request] if self._doubled else [request]
            if self.held.is_set():
                self._stopping.wait(0.02)
                continue
            self._random.shuffle(waiting)
            batch, waiting = waiting[:5], waiting[5:]
            for request in batch:
                self._aws.send(self._queues.generate_responses, self._response(request))

    def _response(self, request: dict[str, Any]) -> dict[str, Any]:
        text = digest_of(request["messages"])
        content = [{"token": f"token_id:{number}", "logprob": -0.5 * number} for number in range(1, 4)]
        choice = {"message": {"content": text}, "finish_reason": "stop", "logprobs": {"content": content}}
        ids = {"sample_id": request["sample_id"], "step_id": request["step_id"]}
        return {"version": "v0", **ids, "data": {"choices": [choice], "serving_model_num": 3}, "finish_reason": "stop"}

    def _collect(self) -> None:
        while not self._stopping.is_set():
            taken = self._aws.take(self._queues.rollout_responses)
            self.responses += [json.loads(message["Body"]) for message in taken]
            if not taken:
                self._stopping.wait(0.05)
