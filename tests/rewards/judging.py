"""A judge's model as a scripted server sees it: what was asked, and verdicts in the form that was asked for."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import openai
import pytest
from botocore.config import Config
from fakes import Answer, Recorded, Service, call_tool, chat_answer, say
from strands.models.openai import OpenAIModel

from aws_rft_sdk.rewards.judge import Judge
from aws_rft_sdk.rewards.judge_rubrics import Criterion, Deduction, Rubric

RUBRIC = Rubric(
    "helpful",
    "Judge how helpful the answer is.",
    (Criterion("correct", 0.75, "It is right."), Criterion("clear", 0.25, "It is easy to follow.")),
    (Deduction("rude", 0.5, "It insults somebody."),),
)
MODEL_ID = "judge-1"
Verdict = Callable[[Recorded], dict[str, Any]]


def make_client(service: Service) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.endpoint}/v1", api_key="test")


def make_async_client(service: Service) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{service.endpoint}/v1", api_key="test")


def make_strands(service: Service) -> OpenAIModel:
    return OpenAIModel(client_args={"base_url": f"{service.endpoint}/v1", "api_key": "test"}, model_id=MODEL_ID)


@functools.cache
def bedrock_at(endpoint: str) -> Any:
    keys = {"aws_access_key_id": "AKIDEXAMPLE", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    config = Config(retries={"total_max_attempts": 1})
    return boto3.session.Session().client("bedrock-runtime", endpoint_url=endpoint, config=config, **keys)


def make_bedrock(service: Service) -> Any:
    return bedrock_at(service.endpoint)


SOURCES = {"openai": make_client, "async_openai": make_async_client, "strands": make_strands, "converse": make_bedrock}


class Waits:
    """Notes how long it was to wait, and does not."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


_open: list[Judge] = []


@pytest.fixture(autouse=True)
def close_judges() -> Iterator[None]:
    yield
    while _open:
        _open.pop().close()


def closing(judge: Judge) -> Judge:
    _open.append(judge)
    return judge


def make_judge(service: Service, kind: str = "openai", rubric: Rubric = RUBRIC, **options: Any) -> Judge:
    return closing(Judge(SOURCES[kind](service), rubric, **{"model_id": MODEL_ID, "sleep": Waits(), **options}))


def grades(correct: int = 8, clear: int = 4, rude: bool = False, **more: Any) -> dict[str, Any]:
    return {"explanation": "because", "correct": correct, "clear": clear, "rude": rude, **more}


def answering(verdict: dict[str, Any] | str | Verdict) -> Callable[[Recorded], Answer]:
    """Return a policy that answers with a verdict, in a tool call or as text, whatever the request asks for."""

    def policy(request: Recorded) -> Answer:
        given = verdict(request) if callable(verdict) else verdict
        text = given if isinstance(given, str) else json.dumps(given)
        if is_converse(request):
            return converse_answer(request, text)
        if "tools" not in request.json:
            return chat_answer(request, say(text))
        message = call_tool("verdict")
        message["tool_calls"][0]["function"]["arguments"] = text
        return chat_answer(request, message)

    return policy


def is_converse(request: Recorded) -> bool:
    return request.path.endswith("/converse")


def converse_answer(request: Recorded, text: str, stop: str = "end_turn") -> Answer:
    """Answer a Converse request: with the object in the text, if there is one and a tool call was asked for."""
    content: list[Any] = [{"text": text}]
    if "toolConfig" in request.json and text.startswith("{"):
        try:
            content = [{"toolUse": {"toolUseId": "t1", "name": "verdict", "input": json.loads(text)}}]
        except ValueError:
            pass
    usage = {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}
    body = {"output": {"message": {"role": "assistant", "content": content}}, "stopReason": stop, "usage": usage}
    return Answer(body=json.dumps({**body, "metrics": {"latencyMs": 1}}).encode())


def text_of(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def turns_of(request: Recorded) -> list[tuple[str, str]]:
    """Return role and text of all messages, the system message first."""
    messages = request.json["messages"]
    if is_converse(request):
        messages = [{"role": "system", "content": request.json["system"]}, *messages]
    return [(message["role"], text_of(message)) for message in messages]


def asked(request: Recorded) -> tuple[str, str]:
    """Return the system text and the first user text of a request."""
    (first, system), (second, user), *_ = turns_of(request)
    assert (first, second) == ("system", "user")
    return system, user


def schema_of(request: Recorded) -> dict[str, Any]:
    """Return the schema that the answer is forced to follow."""
    if is_converse(request):
        assert request.json["toolConfig"]["toolChoice"] == {"tool": {"name": "verdict"}}
        return request.json["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"]["json"]
    if "tools" in request.json:
        assert request.json["tool_choice"] == {"type": "function", "function": {"name": "verdict"}}
        return request.json["tools"][0]["function"]["parameters"]
    assert request.json["response_format"]["json_schema"]["strict"] is True
    return request.json["response_format"]["json_schema"]["schema"]


def material(request: Recorded) -> dict[str, str]:
    """Return the texts in the fences by title, decoded."""
    system, user = asked(request)
    mark = mark_of(system)
    pieces = re.findall(rf"^=== BEGIN {mark} (.+) ===\n(.+)\n=== END {mark} \1 ===$", user, re.MULTILINE)
    return {title: json.loads(text) for title, text in pieces}


def mark_of(system: str) -> str:
    marks = set(re.findall(r"=== (?:BEGIN|END) ([0-9a-f]{32}) <title>", system))
    assert len(marks) == 1
    return marks.pop()
