"""Calls a grader: the event it gets, the reply it must give, and repetitions when it fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from aws_rft_sdk._checks import is_number
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runtime.answers import Refusal
from aws_rft_sdk.runtime.bedrock.functions import MAX_PAYLOAD_BYTES, Functions

GraderInput = Literal["metadata", "top_level", "text"]
"""Where a grader finds the reference answer and the dataset's other keys.

"metadata": in `metadata`, as the Bedrock pages show. "top_level": beside `messages`, as the SageMaker pages show and
the sample graders read. "text": the same, and a reference answer that is a string arrives as `{"text": "..."}`.
"""
GRADER_INPUTS: tuple[GraderInput, ...] = get_args(GraderInput)

MAX_RETRIES = 3
_PAUSE_SECONDS = (0.05, 0.1, 0.2)  # the service waits longer; its seconds are not documented
_MAX_SAMPLES = 64
"""Samples of one invocation. SageMaker's pages say 64, for Bedrock there is no figure."""
_CONCURRENT_INVOCATIONS = 8
_KINDS = ("Reward", "Metric")


class GraderError(Exception):
    """The grader failed four times in a row, or gave a reply that cannot be used."""


class Score(NamedTuple):
    """The score of one sample."""

    reward: float
    metrics: Mapping[str, float]


def make_sample(
    row: Mapping[str, JSON], identity: str, answer: Mapping[str, JSON], form: GraderInput
) -> dict[str, JSON]:
    """Return one element of a grader's event.

    Args:
        row: The row of the training file.
        identity: The sample's id, which the reply must repeat.
        answer: The generated assistant message.
        form: Where the grader looks for the reference answer.
    """
    messages = row["messages"]
    extras = {name: value for name, value in row.items() if name not in ("id", "messages")}
    turn = {name: answer[name] for name in ("role", "content", "tool_calls") if name in answer}
    sample: dict[str, JSON] = {"id": identity, "messages": [*messages, turn]}
    if form == "metadata":
        return {**sample, "metadata": extras}
    reference = extras.get("reference_answer")
    if form == "text" and isinstance(reference, str):
        extras["reference_answer"] = {"text": reference}
    return {**sample, **extras}


async def grade(functions: Functions, function: str, samples: Sequence[dict[str, JSON]]) -> list[Score]:
    """Return the score of each sample. A failed invocation is repeated up to three times.

    Args:
        functions: The functions.
        function: ARN of the grader.
        samples: The elements of its events.

    Raises:
        GraderError: The grader failed, or its reply cannot be used.
    """
    gate = asyncio.Semaphore(_CONCURRENT_INVOCATIONS)

    async def one(batch: list[dict[str, JSON]]) -> list[Score]:
        async with gate:
            return await _grade_batch(functions, function, batch)

    graded = await asyncio.gather(*map(one, _batches(samples)))
    return [score for scores in graded for score in scores]


def _batches(samples: Sequence[dict[str, JSON]]) -> list[list[dict[str, JSON]]]:
    batches: list[list[dict[str, JSON]]] = []
    size = 0
    for sample in samples:
        length = len(json.dumps(sample)) + 2
        if not batches or len(batches[-1]) == _MAX_SAMPLES or size + length > MAX_PAYLOAD_BYTES:
            batches.append([])
            size = 2
        batches[-1].append(sample)
        size += length
    return batches


async def _grade_batch(functions: Functions, function: str, batch: list[dict[str, JSON]]) -> list[Score]:
    payload = json.dumps(batch).encode()
    for attempt in range(MAX_RETRIES + 1):
        try:
            invocation = await functions.invoke(function, payload)
        except Refusal as refusal:
            raise GraderError(f"the grader {function} cannot be invoked: {refusal.message}") from None
        if invocation.error is None:
            return read_reply(invocation.payload, [str(sample["id"]) for sample in batch])
        if attempt < MAX_RETRIES:
            await asyncio.sleep(_PAUSE_SECONDS[attempt])
    error = json.loads(invocation.payload)
    raise GraderError(
        f"the grader {function} failed {MAX_RETRIES + 1} times in a row, "
        f"at last with {error['errorType']}: {error['errorMessage']:.500}"
    )


def read_reply(payload: bytes, identities: Sequence[str]) -> list[Score]:
    """Return the scores of a grader's reply.

    Raises:
        GraderError: The reply is no list with one result for each sample, in order, its id repeated, its score a
            finite number.
    """
    reply = json.loads(payload)
    if not isinstance(reply, list):
        raise GraderError(f"the grader's reply is a JSON {_kind(reply)}; it must be a list of results")
    if len(reply) != len(identities):
        raise GraderError(f"the grader's reply has {len(reply)} results for {len(identities)} samples")
    return [
        _read_result(item, index, identity)
        for index, (item, identity) in enumerate(zip(reply, identities, strict=True))
    ]


def _read_result(result: Any, index: int, identity: str) -> Score:
    where = f"result {index} of the grader's reply"
    if not isinstance(result, Mapping):
        raise GraderError(f"{where} is a JSON {_kind(result)}; it must be an object")
    if result.get("id") != identity:
        raise GraderError(f"{where} has the id {result.get('id')!r:.80}; its sample has {identity!r:.80}")
    metrics: dict[str, float] = {}
    listed = result.get("metrics_list")
    listed = [] if listed is None else listed
    if not isinstance(listed, list) or not all(isinstance(item, Mapping) for item in listed):
        raise GraderError(f"metrics_list of {where} is not a list of objects")
    for item in listed:
        name, kind = item.get("name"), item.get("type")
        if not isinstance(name, str) or kind not in _KINDS:
            raise GraderError(
                f"metrics_list of {where} has name {name!r:.40}, type {kind!r:.40}; types: Reward, Metric"
            )
        metrics[name] = _number(item.get("value"), f"the metric {name} of {where}")
    return Score(_number(result.get("aggregate_reward_score"), f"aggregate_reward_score of {where}"), metrics)


def _number(value: Any, what: str) -> float:
    if not is_number(value):
        raise GraderError(f"{what} is {value!r:.80}; it must be a finite number")
    return float(value)


def _kind(value: Any) -> str:
    names: dict[type, str] = {dict: "object", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
