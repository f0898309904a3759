"""One kind for each error. The errors are real: of a real agent over a runtime that fails, of real libraries."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import errno
import json
import logging
import pickle
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import httpx
import openai
import pytest
import requests
from botocore.config import Config
from fakes import Answer, Recorded, Service, call_tool, chat_answer, default_policy, error, refused_endpoint, say
from langchain_core.tools import ToolException
from langchain_core.tools import tool as langchain_tool
from langchain_openai import ChatOpenAI
from strands import Agent, tool
from strands.models.openai import OpenAIModel

from aws_rft_sdk import errors, rft_handler, wrap_model
from aws_rft_sdk.failures import FailureKind, chain_of, failure_kind, note_kind
from aws_rft_sdk.lifecycle import one_rollout
from aws_rft_sdk.lifecycle.shutdown import give_up
from aws_rft_sdk.rewards import WeightedSum, evaluate
from aws_rft_sdk.rewards.rollout import Rollout
from aws_rft_sdk.workers import RolloutPool

AGENT, TOOL, MODEL = FailureKind.AGENT, FailureKind.TOOL, FailureKind.MODEL
REWARD, TIMEOUT, INFRASTRUCTURE = FailureKind.REWARD, FailureKind.TIMEOUT, FailureKind.INFRASTRUCTURE


def raised(call: Callable[[], object]) -> BaseException:
    """Return what a call raises, with its traceback."""
    try:
        call()
    except BaseException as caught:
        return caught
    raise AssertionError("nothing was raised")


# --- an agent over a runtime that fails ------------------------------------------------------------------------------


def ask_strands(service: Service, **client: Any) -> Any:
    args = {"base_url": f"{service.endpoint}/v1", "api_key": "k", "max_retries": 0, **client}
    return Agent(model=OpenAIModel(model_id="m", client_args=args), callback_handler=None)("2+2?")


def ask_langchain(service: Service, **client: Any) -> Any:
    return ChatOpenAI(base_url=f"{service.endpoint}/v1", api_key="k", model="m", max_retries=0, **client).invoke("2+2?")


def too_long() -> Answer:
    text = {"message": "This model's maximum context length is 8 tokens", "code": "context_length_exceeded"}
    return Answer(400, json.dumps({"error": text}).encode(), {"Content-Type": "application/json"})


def stream(*chunks: bytes, **fields: Any) -> Answer:
    """Answer with half of a stream."""
    delta = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hel"}, "finish_reason": None}]}
    head = b"data: " + json.dumps({"id": "x", "object": "chat.completion.chunk", "model": "m", **delta}).encode()
    return Answer(headers={"Content-Type": "text/event-stream"}, chunks=[head + b"\n\n", *chunks], **fields)


ANSWERS = {
    "500": (lambda: error(500), INFRASTRUCTURE),
    "503": (lambda: error(503, retry_after="0"), INFRASTRUCTURE),
    "401": (lambda: error(401), INFRASTRUCTURE),
    "403": (lambda: error(403), INFRASTRUCTURE),
    "404-no-such-trajectory": (lambda: error(404), INFRASTRUCTURE),
    "409-sealed": (lambda: error(409), INFRASTRUCTURE),
    "400": (lambda: error(400), MODEL),
    "413": (lambda: error(413), MODEL),
    "422": (lambda: error(422), MODEL),
    "context-length": (too_long, MODEL),
    "connection-reset": (lambda: Answer(reset=True), INFRASTRUCTURE),
    "half-an-answer": (lambda: Answer(body=b'{"id"', promised_bytes=999), INFRASTRUCTURE),
}


@pytest.mark.parametrize("ask", [ask_strands, ask_langchain], ids=["strands", "langchain"])
@pytest.mark.parametrize("name", ANSWERS)
def test_kind_when_the_runtime_fails_then_it_is_infrastructure_unless_it_refuses_the_request(
    service: Service, ask: Callable[..., Any], name: str
) -> None:
    make, kind = ANSWERS[name]
    service.policy = lambda request: make()
    assert failure_kind(raised(lambda: ask(service))) is kind


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda: stream(reset=True), id="dies"),
        pytest.param(lambda: stream(b'data: {"id": \n\n'), id="garbage"),
        pytest.param(lambda: stream(b'data: {"error": {"message": "overloaded"}}\n\n'), id="error-event"),
    ],
)
def test_kind_when_a_stream_breaks_in_the_middle_then_infrastructure(
    service: Service, answer: Callable[[], Answer]
) -> None:
    service.policy = lambda request: answer()
    assert failure_kind(raised(lambda: ask_strands(service))) is INFRASTRUCTURE


def test_kind_when_the_runtime_is_slow_or_not_there_then_infrastructure(service: Service) -> None:
    gate = service.gate()
    service.policy = lambda request: Answer(gate=gate)
    assert failure_kind(raised(lambda: ask_strands(service, timeout=0.2))) is INFRASTRUCTURE
    with refused_endpoint() as endpoint:
        assert failure_kind(raised(lambda: ask_strands(service, base_url=endpoint))) is INFRASTRUCTURE


def test_kind_when_it_throttles_after_retries_of_the_client_then_infrastructure(service: Service) -> None:
    """Strands itself repeats a throttled call for minutes, so this is the client's own error."""
    service.policy = lambda request: error(429, retry_after="0")
    client = openai.OpenAI(base_url=f"{service.endpoint}/v1", api_key="k", max_retries=1)
    call = raised(lambda: client.chat.completions.create(model="m", messages=[]))
    assert len(service.requests) == 2
    assert failure_kind(call) is INFRASTRUCTURE


def test_kind_when_the_answer_is_cut_off_then_model(service: Service) -> None:
    def cut_off(request: Recorded) -> Answer:
        answer = chat_answer(request, say("It is"))
        assert answer.chunks is not None
        return dataclasses.replace(answer, chunks=[c.replace(b'"stop"', b'"length"') for c in answer.chunks])

    service.policy = cut_off
    failed = raised(lambda: ask_strands(service))
    assert type(failed).__name__ == "MaxTokensReachedException"
    assert failure_kind(failed) is MODEL


# --- tools -----------------------------------------------------------------------------------------------------------


@tool
def broken_tool(how: str) -> str:
    """Break.

    Args:
        how: Way to break.
    """
    if how == "exit":
        raise SystemExit(3)
    if how == "connection":
        raise ConnectionResetError(errno.ECONNRESET, "the database is gone")
    raise LookupError("no such order")


def ask_with_tool(service: Service, how: str) -> Any:
    def policy(request: Recorded) -> Answer:
        answered = any(message["role"] == "tool" for message in request.json["messages"])
        return chat_answer(request, say("sorry") if answered else call_tool("broken_tool", how=how))

    service.policy = policy
    model = OpenAIModel(model_id="m", client_args={"base_url": f"{service.endpoint}/v1", "api_key": "k"})
    return Agent(model=model, tools=[broken_tool], callback_handler=None)("where is my order?")


def test_tool_when_it_raises_in_an_agent_then_the_model_is_told_and_nothing_fails(service: Service) -> None:
    for how in ("lookup", "connection"):
        assert str(ask_with_tool(service, how)).strip() == "sorry"


def test_kind_when_a_tool_ends_the_agent_then_tool(service: Service) -> None:
    assert failure_kind(raised(lambda: ask_with_tool(service, "exit"))) is TOOL


@pytest.mark.parametrize("how", ["lookup", "connection", "exit"])
def test_kind_when_a_handler_calls_a_tool_itself_then_tool(how: str) -> None:
    assert failure_kind(raised(lambda: broken_tool(how=how))) is TOOL


@langchain_tool
def langchain_broken(how: str) -> str:
    """Break."""
    raise ToolException(how) if how == "told" else ZeroDivisionError(how)


@pytest.mark.parametrize("how", ["told", "raised"])
def test_kind_when_a_tool_of_langchain_raises_then_tool(how: str) -> None:
    assert failure_kind(raised(lambda: langchain_broken.invoke({"how": how}))) is TOOL


# --- rewards ---------------------------------------------------------------------------------------------------------


def client_of(service: Service) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.endpoint}/v1", api_key="k", max_retries=0)


def judged_by_hand(service: Service) -> Callable[[Rollout], float]:
    def reward(rollout: Rollout) -> float:
        client_of(service).chat.completions.create(model="judge", messages=[])
        return 1.0

    return reward


def raising(rollout: Rollout) -> float:
    raise KeyError("answer")


ROLLOUT = Rollout.of_answer("4", "4")


def test_kind_when_a_reward_raises_then_reward_and_its_broken_model_is_infrastructure(service: Service) -> None:
    assert failure_kind(raised(lambda: evaluate(raising, ROLLOUT))) is REWARD
    assert failure_kind(raised(lambda: WeightedSum({"right": raising})(ROLLOUT))) is REWARD
    service.script(error(500), error(400))
    assert failure_kind(raised(lambda: evaluate(judged_by_hand(service), ROLLOUT))) is INFRASTRUCTURE
    assert failure_kind(raised(lambda: evaluate(judged_by_hand(service), ROLLOUT))) is REWARD  # not the policy's fault


def test_kind_when_a_handler_returns_no_reward_then_reward(service: Service) -> None:
    failed = raised(lambda: rft_handler(require_turns=False)(lambda payload: {"reward": "1"})(service.payload()))
    assert isinstance(failed, errors.RewardError)
    assert failure_kind(failed) is REWARD


# --- errors of libraries, by themselves ------------------------------------------------------------------------------


def wait_too_long() -> None:
    asyncio.run(asyncio.wait_for(asyncio.sleep(60), 0.01))


def bedrock(service: Service) -> None:
    client = boto3.client(
        "bedrock-runtime",
        region_name="us-west-2",
        endpoint_url=service.endpoint,
        aws_access_key_id="a",
        aws_secret_access_key="b",
        config=Config(retries={"total_max_attempts": 1}),
    )
    client.converse(modelId="m", messages=[{"role": "user", "content": [{"text": "hi"}]}])


def get_with_requests(service: Service) -> None:
    requests.post(service.endpoint, timeout=5).raise_for_status()


def get_with_httpx(service: Service) -> None:
    httpx.post(service.endpoint, timeout=5).raise_for_status()


def get_with_urllib(service: Service) -> None:
    urllib.request.urlopen(urllib.request.Request(service.endpoint, data=b"", method="POST"), timeout=5)


@pytest.mark.parametrize("call", [bedrock, get_with_requests, get_with_httpx, get_with_urllib])
@pytest.mark.parametrize("status", [500, 401])
def test_kind_when_an_environment_of_the_agent_fails_then_infrastructure(
    service: Service, call: Callable[[Service], None], status: int
) -> None:
    service.policy = lambda request: error(status)
    assert failure_kind(raised(lambda: call(service))) is INFRASTRUCTURE


@pytest.mark.parametrize("call", [get_with_requests, get_with_httpx, get_with_urllib])
def test_kind_when_an_environment_refuses_what_the_agent_sends_then_agent(
    service: Service, call: Callable[[Service], None]
) -> None:
    service.policy = lambda request: error(400)
    assert failure_kind(raised(lambda: call(service))) is AGENT


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        pytest.param(lambda: {}["x"], AGENT, id="key-error"),
        pytest.param(lambda: openai.OpenAI(api_key="k").chat.completions.create(), AGENT, id="wrong-arguments"),
        pytest.param(lambda: requests.get("nonsense"), AGENT, id="no-url"),
        pytest.param(lambda: httpx.get("http://a\x00b", timeout=1), AGENT, id="no-url-httpx"),
        pytest.param(lambda: socket.create_connection(("127.0.0.1", 1), timeout=1), INFRASTRUCTURE, id="refused"),
        pytest.param(lambda: socket.getaddrinfo("no-such-host.invalid", 1), INFRASTRUCTURE, id="no-such-host"),
        pytest.param(lambda: Path("/no/such/file").read_text(), AGENT, id="no-such-file"),
        pytest.param(wait_too_long, TIMEOUT, id="time-limit-of-the-handler"),
        pytest.param(lambda: concurrent.futures.Future[int]().result(0.01), TIMEOUT, id="future"),
    ],
)
def test_kind_when_a_library_raises_then(call: Callable[[], object], kind: FailureKind) -> None:
    assert failure_kind(raised(call)) is kind


@pytest.mark.parametrize(
    ("failed", "kind"),
    [
        pytest.param(errors.RewardError("x"), REWARD, id="reward"),
        pytest.param(errors.RolloutTimeoutError("x"), TIMEOUT, id="deadline"),
        pytest.param(errors.GivenUpError("x"), INFRASTRUCTURE, id="given-up"),
        pytest.param(errors.ServiceTimeoutError("x"), INFRASTRUCTURE, id="feedback-timeout"),
        pytest.param(errors.InvalidRequestError("x", status=400), INFRASTRUCTURE, id="feedback-refused"),
        pytest.param(errors.CredentialsError("x"), INFRASTRUCTURE, id="credentials"),
        pytest.param(errors.ConfigurationError("x"), AGENT, id="configuration"),
        pytest.param(errors.NoTrackedTurnsError("x"), AGENT, id="untracked"),
        pytest.param(errors.UnavailableError("x"), INFRASTRUCTURE, id="unavailable"),
        pytest.param(OSError(errno.ENOSPC, "full"), INFRASTRUCTURE, id="full-disk"),
        pytest.param(TimeoutError(errno.ETIMEDOUT, "no answer"), INFRASTRUCTURE, id="connection-timed-out"),
        pytest.param(MemoryError(), INFRASTRUCTURE, id="memory"),
        pytest.param(KeyboardInterrupt(), INFRASTRUCTURE, id="interrupt"),
        pytest.param(asyncio.CancelledError(), INFRASTRUCTURE, id="cancelled"),
        pytest.param(SystemExit(1), AGENT, id="exit"),
        pytest.param(concurrent.futures.BrokenExecutor("x"), INFRASTRUCTURE, id="dead-process"),
    ],
)
def test_kind_when_an_error_stands_alone_then(failed: BaseException, kind: FailureKind) -> None:
    assert failure_kind(failed) is kind
    assert note_kind(failed) is kind
    assert failed.kind is kind  # type: ignore[attr-defined]


# --- errors around errors --------------------------------------------------------------------------------------------


class AgentError(Exception):
    """Says nothing by itself."""


def wrapped(cause: BaseException) -> BaseException:
    def call() -> None:
        try:
            raise cause
        except BaseException as caught:
            raise AgentError("the agent failed") from caught

    return raised(call)


def raised_meanwhile(cause: BaseException) -> BaseException:
    def call() -> None:
        try:
            raise cause
        except BaseException:
            raise AgentError("the agent failed")  # noqa: B904 - that is what is tested

    return raised(call)


def in_handler_error(cause: BaseException) -> BaseException:
    failed = errors.HandlerError("the handler raised")
    failed.__cause__ = cause
    return failed


def in_reward_error(cause: BaseException) -> BaseException:
    failed = errors.RewardError("the judge has not answered")
    failed.__cause__ = cause
    return failed


class Group(Exception):
    """What `ExceptionGroup` is, in Python 3.10 too."""

    def __init__(self, *members: BaseException) -> None:
        super().__init__("several")
        self.exceptions = members


@pytest.mark.parametrize("around", [wrapped, raised_meanwhile, in_handler_error, in_reward_error, Group])
def test_kind_when_another_error_is_around_it_then_what_caused_it_tells(
    service: Service, around: Callable[[BaseException], BaseException]
) -> None:
    service.policy = lambda request: error(500)
    inner = raised(lambda: ask_strands(service))
    assert failure_kind(around(inner)) is INFRASTRUCTURE
    assert failure_kind(around(around(inner))) is INFRASTRUCTURE


def test_kind_when_a_task_group_fails_then_its_members_tell(service: Service) -> None:
    task_group = getattr(asyncio, "TaskGroup", None)
    if task_group is None:
        pytest.skip("Python 3.10 has no task groups")
    service.policy = lambda request: error(503)

    async def main() -> None:
        async with task_group() as tasks:
            tasks.create_task(asyncio.sleep(60))
            tasks.create_task(asyncio.to_thread(ask_strands, service))

    assert failure_kind(raised(lambda: asyncio.run(main()))) is INFRASTRUCTURE


def test_chain_when_errors_form_a_ring_then_each_is_seen_once() -> None:
    first, second = ValueError(), Group(KeyError())
    first.__context__, second.__context__ = second, first
    assert [type(item) for item in chain_of(first)] == [ValueError, Group, KeyError]


# --- errors of the user's own making ---------------------------------------------------------------------------------


class SaysSo(Exception):
    kind = "model"


class SaysNonsense(Exception):
    kind = "a kind of magic"


class Hostile(Exception):
    @property
    def kind(self) -> str:
        raise RuntimeError("no kind")

    @property
    def response(self) -> str:
        raise RuntimeError("no response")

    exceptions = status_code = response

    def __str__(self) -> str:
        raise RuntimeError("no text")


class HostileAnswer(Hostile, httpx.HTTPStatusError):
    def __init__(self) -> None:
        pass


class Closed(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("__"):
            raise AttributeError("nothing may be set")
        super().__setattr__(name, value)


@pytest.mark.parametrize(
    ("failed", "kind"),
    [
        (SaysSo(), MODEL),
        (SaysNonsense(), AGENT),
        (Hostile(), AGENT),
        (HostileAnswer(), AGENT),
        (Closed(), AGENT),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
def test_handler_when_the_error_is_odd_then_it_is_reported_all_the_same(
    service: Service, failed: Exception, kind: FailureKind
) -> None:
    assert failure_kind(failed) is kind

    @rft_handler(require_turns=False)
    def handler(payload: Any) -> Any:
        raise failed

    assert raised(lambda: handler(service.payload())) is failed
    assert service.feedback == [("/CompleteTrajectory", None), ("/UpdateReward", [0.0])]


# --- what the handler's options are told -----------------------------------------------------------------------------


def chosen_by_kind(failed: BaseException) -> float | None:
    return None if failed.kind is INFRASTRUCTURE else -1.0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("status", "kind", "sent"),
    [
        (500, "infrastructure", [("/CompleteTrajectory", None)]),  # alpha has no failed state: sealed, without a reward
        (400, "model", [("/CompleteTrajectory", None), ("/UpdateReward", [-1.0])]),
    ],
)
def test_on_error_when_it_is_a_function_then_it_opts_out_of_the_floor_by_kind(
    service: Service, status: int, kind: str, sent: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aws_rft_sdk")
    service.policy = lambda request: error(status) if "chat" in request.path else default_policy(request)

    @rft_handler(on_error=chosen_by_kind, require_turns=False)
    def handler(payload: Any) -> Any:
        client = {"base_url": f"{service.endpoint}/v1", "api_key": "k", "max_retries": 0}
        return {"reward": Agent(model=wrap_model(OpenAIModel(model_id="m", client_args=client)))("hi")}

    raised(lambda: handler(service.payload()))
    assert service.feedback == sent
    (line,) = [record for record in caplog.records if "ended in an error" in record.message]
    assert f"kind=<{kind}>" in line.message
    assert f"floor=<{None if status == 500 else -1.0}>" in line.message


def test_log_when_infrastructure_forces_a_floor_then_it_warns(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    @rft_handler(require_turns=False)
    def handler(payload: Any) -> Any:
        raise ConnectionResetError("gone")

    raised(lambda: handler(service.payload()))
    assert service.feedback[-1] == ("/UpdateReward", [0.0])
    (line,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "kind=<infrastructure>, error=<ConnectionResetError>, floor=<0.0>" in line.message


def test_handler_when_all_its_calls_were_turned_away_then_infrastructure_else_agent(service: Service) -> None:
    """The agent swallows the errors of its model and returns a reward."""

    def handle(**client: Any) -> BaseException:
        @rft_handler
        def handler(payload: Any) -> Any:
            args = {"base_url": f"{service.endpoint}/v1", "api_key": "k", "max_retries": 0}
            model: Any = OpenAIModel(model_id="m", client_args=args)
            agent = Agent(model=wrap_model(model) if client else model, callback_handler=None)
            with contextlib.suppress(Exception):
                agent("hi")
            return {"reward": 0.0}

        return raised(lambda: handler(service.payload()))

    service.policy = lambda request: error(401)
    away, unwrapped = handle(wrapped=True), handle()
    assert isinstance(away, errors.NoTrackedTurnsError)
    assert isinstance(unwrapped, errors.NoTrackedTurnsError)
    assert (failure_kind(away), failure_kind(unwrapped)) == (INFRASTRUCTURE, AGENT)
    assert service.feedback == []


def test_shutdown_when_it_gives_a_rollout_up_then_infrastructure(service: Service) -> None:
    """A process that is taken away says nothing about the agent in it."""
    told: list[Any] = []
    running, release = threading.Event(), threading.Event()

    @rft_handler(on_error=lambda failed: told.append(failed) or 0.0, require_turns=False)
    def handler(payload: Any) -> Any:
        running.set()
        release.wait(30)
        return {"reward": 1.0}

    thread = threading.Thread(target=handler, args=(service.payload(),))
    thread.start()
    try:
        assert running.wait(30)
        give_up(one_rollout.running(), time.monotonic() + 30)
    finally:
        release.set()
        thread.join(30)
    (failed,) = told
    assert isinstance(failed, errors.RolloutTimeoutError)
    assert failed.kind is INFRASTRUCTURE
    assert service.feedback == [("/CompleteTrajectory", None), ("/UpdateReward", [0.0])]


def test_pool_when_it_accepted_a_rollout_that_never_began_then_no_floor_is_sent(service: Service) -> None:
    """One handler blocks the event loop of the pool, and another rollout waits behind it."""
    blocking, release, ran = threading.Event(), threading.Event(), []

    @rft_handler(require_turns=False)
    async def handler(payload: Any) -> Any:
        ran.append(payload["metadata"]["rolloutId"])
        blocking.set()
        release.wait(30)
        return {"reward": 1.0}

    pool = RolloutPool(handler, max_rollouts=4).start()
    pool.submit(service.payload("blocks"))
    assert blocking.wait(30)
    starved = pool.submit(service.payload("starved"))
    pool.drain(1.0)
    release.set()
    ended = starved.ended.result(30)
    pool.close()
    assert ended.error is not None
    assert (ended.context, failure_kind(ended.error)) == (None, INFRASTRUCTURE)
    assert ran == ["blocks"]
    assert {request.json["TrajectoryId"] for request in service.requests} == {"blocks"}


def test_error_when_it_has_a_kind_then_it_still_pickles() -> None:
    failed = errors.ServiceFaultError("x", status=500)
    note_kind(failed)
    assert pickle.loads(pickle.dumps(failed)).kind is INFRASTRUCTURE
