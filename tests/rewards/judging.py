"""A judge's model as a scripted server sees it: what was asked, and verdicts in the form that was asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
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


SOURCES = {"openai": make_client, "async_openai": make_async_client, "strands": make_strands}


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
        if "tools" not in request.json:
            return chat_answer(request, say(text))
        message = call_tool("verdict")
        message["tool_calls"][0]["function"]["arguments"] = text
        return chat_answer(request, message)

    return policy


def text_of(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def asked(request: Recorded) -> tuple[str, str]:
    """Return the system text and the user text of a request, which must be all there is."""
    messages = request.json["messages"]
    assert [message["role"] for message in messages] == ["system", "user"]
    return text_of(messages[0]), text_of(messages[1])


def schema_of(request: Recorded) -> dict[str, Any]:
    if "tools" in request.json:
        return request.json["tools"][0]["function"]["parameters"]
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
