"""What providers, proxies and networks do beside answering: odd bookkeeping, odd bodies, refusals, and forks of us."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
from typing import Any

import pytest
from fakes import USAGE, Answer, Recorded, Service, chat_answer, say

from aws_rft_sdk.rewards.judge import Judge
from aws_rft_sdk.rewards.judge_models import Failure, JudgeCost
from aws_rft_sdk.rewards.rollout import Rollout

from .judging import (
    MODEL_ID,
    RUBRIC,
    SOURCES,
    answering,
    close_judges,  # noqa: F401 - a fixture
    converse_answer,
    grades,
    is_converse,
    make_async_client,
    make_judge,
)

ROLLOUT = Rollout.of_answer("4", "4", "2+2?")
each_source = pytest.mark.parametrize("kind", SOURCES)
each_chat = pytest.mark.parametrize("kind", ["openai", "async_openai", "strands"])
each_client = pytest.mark.parametrize("kind", ["openai", "async_openai"])


def replaced(answer: Answer, old: str, new: str) -> Answer:
    parts = [answer.body] if answer.chunks is None else answer.chunks
    assert any(old.encode() in part for part in parts)
    parts = [part.replace(old.encode(), new.encode()) for part in parts]
    answer.body, answer.chunks = (parts[0], None) if answer.chunks is None else (answer.body, parts)
    return answer


@each_chat
@pytest.mark.parametrize(
    "usage", [None, {}, {"total_tokens": 5}, {"prompt_tokens": None, "completion_tokens": None}, {"prompt_tokens": "3"}]
)
def test_judge_when_provider_counts_no_tokens_then_the_verdict_stands(service: Service, kind: str, usage: Any) -> None:
    verdict = answering(grades())
    service.policy = lambda request: replaced(verdict(request), json.dumps(USAGE), json.dumps(usage))
    judge = make_judge(service, kind)
    assert judge(ROLLOUT).reward == pytest.approx(0.7)
    assert judge.cost == JudgeCost(calls=1)


@pytest.mark.parametrize("body", [{}, {"output": {}}, {"output": {"message": {"role": "assistant"}}}, {"usage": 5}])
def test_judge_when_bedrock_gives_no_message_then_malformed_and_tried_again(service: Service, body: Any) -> None:
    service.script(Answer(body=json.dumps(body).encode()))
    service.policy = answering(grades())
    assert make_judge(service, "converse")(ROLLOUT).reward == pytest.approx(0.7)


BODIES = [
    pytest.param("application/json", "<html>busy", id="no_json"),
    pytest.param("application/json", '{"id": "x", "choices": [{"ind', id="cut_off"),
    pytest.param("application/json", "", id="empty"),
    pytest.param("application/json", "{}", id="no_completion"),
    pytest.param("application/json", "[]", id="list"),
    pytest.param("application/json", "null", id="null"),
    pytest.param("application/json", '{"choices": []}', id="no_choices"),
    pytest.param("application/json", '{"error": {"message": "overloaded"}}', id="error_as_a_success"),
    pytest.param("application/json", '{"choices": [{"message": {"content": [{"text": "4"}]}}]}', id="list_of_parts"),
    pytest.param("text/html", "<html>sign in", id="page"),
]


@each_chat
@pytest.mark.parametrize(("content_type", "body"), BODIES)
def test_judge_when_the_reply_is_no_completion_then_malformed_and_tried_again(
    service: Service, kind: str, content_type: str, body: str
) -> None:
    service.script(Answer(body=body.encode(), headers={"Content-Type": content_type}))
    service.policy = answering(grades())
    assert make_judge(service, kind)(ROLLOUT).reward == pytest.approx(0.7)
    service.policy = lambda request: Answer(body=body.encode(), headers={"Content-Type": content_type})
    assert make_judge(service, kind, max_attempts=1)(ROLLOUT).failure is Failure.MALFORMED


@each_source
def test_judge_when_the_answer_is_filtered_then_refused_once_and_paid_for(service: Service, kind: str) -> None:
    def filtered(request: Recorded) -> Answer:
        if is_converse(request):
            return converse_answer(request, "", stop="guardrail_intervened")
        return replaced(chat_answer(request, say("")), '"stop"', '"content_filter"')

    service.policy = filtered
    judge = make_judge(service, kind)
    assert judge(ROLLOUT).failure is Failure.REFUSED
    assert judge.cost == JudgeCost(calls=1, failures=1, input_tokens=3, output_tokens=2)


@each_client
def test_judge_when_the_model_declines_then_its_tokens_count(service: Service, kind: str) -> None:
    service.policy = lambda request: chat_answer(request, {**say(""), "refusal": "I would rather not."})
    judge = make_judge(service, kind)
    assert judge(ROLLOUT).detail == "the model declined: I would rather not."
    assert judge.cost == JudgeCost(calls=1, failures=1, input_tokens=3, output_tokens=2)


@each_source
def test_judge_when_the_answer_only_trickles_in_then_timeout(service: Service, kind: str) -> None:
    """Each byte comes in time, so that no timeout of a single read ever strikes."""
    gate = service.gate()

    def trickle() -> Any:
        yield from itertools.takewhile(lambda _: not gate.wait(0.01), itertools.repeat(b" ", 1000))

    headers = {"Content-Type": "application/json"}
    service.policy = lambda request: Answer(headers=headers, chunks=trickle())
    assert make_judge(service, kind, timeout_seconds=0.5, max_attempts=1)(ROLLOUT).failure is Failure.TIMEOUT


@each_source
def test_judge_when_called_again_then_over_the_same_connection(service: Service, kind: str) -> None:
    service.policy = answering(grades())
    judge = make_judge(service, kind)
    assert [judge(Rollout.of_answer(text)).reward for text in "abc"] == [0.7] * 3
    assert judge.cost.retries == 0
    if kind in ("openai", "converse"):  # each call of the others has a loop and connections of its own
        assert len({request.connection for request in service.requests}) == 1


def test_judge_when_closed_then_an_asynchronous_client_still_serves_its_owner(service: Service) -> None:
    service.policy = answering(grades())
    client = make_async_client(service)
    messages: Any = [{"role": "user", "content": "hi"}]

    async def own_calls() -> None:
        await client.chat.completions.create(model="m", messages=messages)
        with Judge(client, RUBRIC, model_id=MODEL_ID) as judge:
            assert [judge(Rollout.of_answer(text)).reward for text in "ab"] == [0.7] * 2
        await client.chat.completions.create(model="m", messages=messages)
        await client.close()

    asyncio.run(own_calls())
    assert len(service.requests) == 4


FORK = """
import os, sys
import boto3, openai
from botocore.config import Config
from aws_rft_sdk.rewards import Judge, Rollout, single_score
kind, endpoint = sys.argv[1:]
if kind == "converse":
    keys = dict(aws_access_key_id="AKIDEXAMPLE", aws_secret_access_key="secret", region_name="us-east-1")
    client = boto3.client("bedrock-runtime", endpoint_url=endpoint, **keys)
else:
    client = {"openai": openai.OpenAI, "async_openai": openai.AsyncOpenAI}[kind](base_url=endpoint + "/v1", api_key="k")
judge = Judge(client, single_score("Judge.", "Good or bad."), model_id="m")
judge(Rollout.of_answer("before"))
child = os.fork()
judge(Rollout.of_answer("after" if child else "child"))
print(judge.cost.calls - judge.cost.failures, flush=True)
if child:
    os.waitpid(child, 0)
judge.close()
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks on this system")
@pytest.mark.parametrize("kind", ["openai", "async_openai", "converse"])
def test_judge_when_the_process_forks_then_the_child_has_connections_and_costs_of_its_own(
    service: Service, kind: str
) -> None:
    """On one connection the processes would get each other's verdicts."""
    service.policy = answering({"explanation": "", "quality": 7})

    command = [sys.executable, "-c", FORK, kind, service.endpoint]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def connections(word: str) -> set[int]:
        return {request.connection for request in service.requests if word in text_sent(request)}

    assert sorted("".join(output.split())) == ["1", "2"]  # both write at once, so line ends may come later
    assert connections("child").isdisjoint(connections("before") | connections("after"))


def text_sent(request: Recorded) -> str:
    return str(request.json["messages"][-1]["content"])
