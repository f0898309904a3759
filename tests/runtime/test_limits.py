"""Limits of a rollout: the runtime refuses what is past them, no client repeats that, and the failure has a kind."""

from __future__ import annotations

import contextlib
import json
import threading

import boto3
import openai
import pytest
import requests
from langchain_openai import ChatOpenAI
from pydantic import BaseModel
from strands import Agent, tool

from aws_rft_sdk import RFTContext, instrument, rft_handler, runtime_model
from aws_rft_sdk.adapters.langchain import http_clients
from aws_rft_sdk.adapters.openai import runtime_client_args
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime import Faults, LocalRuntime, PolicyError, RolloutLimits

USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}


def counted(request):
    """Answer with 100 tokens asked and 20 answered."""
    return {"choices": [{"message": {"content": "word"}}], "usage": USAGE}


def statuses(wire, payload, count):
    return [wire.chat(payload).status_code for _ in range(count)]


@pytest.fixture
def limited(open_wire, tmp_path):
    """Return a function that starts a runtime with limits, and returns it and its wire."""
    runtimes = []

    def start(policy=counted, db=":memory:", faults=None, capture="full", **limits):
        runtime = LocalRuntime(
            policy, db=db, auth="none", faults=faults, capture=capture, limits=RolloutLimits(**limits)
        ).start()
        runtimes.append(runtime)
        return runtime, open_wire(runtime)

    yield start
    for runtime in runtimes:
        runtime.stop()


# --- what the limits say ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        pytest.param({"max_turns": 0}, "max_turns", id="no-turns"),
        pytest.param({"max_turns": 1.5}, "max_turns", id="half-a-turn"),
        pytest.param({"max_turns": True}, "max_turns", id="a-flag"),
        pytest.param({"max_total_tokens": "9"}, "max_total_tokens", id="text"),
        pytest.param({"max_cost": 1.0}, "price_per_million", id="no-price"),
        pytest.param({"price_per_million": (1, 2)}, "max_cost", id="price-only"),
        pytest.param({"max_cost": float("nan"), "price_per_million": (1, 2)}, "max_cost", id="nan"),
        pytest.param({"max_cost": 0, "price_per_million": (1, 2)}, "above 0", id="free"),
        pytest.param({"max_cost": 1, "price_per_million": (0, 0)}, "above 0", id="no-prices"),
        pytest.param({"max_cost": 1, "price_per_million": 3}, "(0.3, 1.2)", id="one-price"),
        pytest.param({"max_cost": 1, "price_per_million": (1, 2, 3)}, "(0.3, 1.2)", id="three-prices"),
        pytest.param({"max_cost": 1, "price_per_million": (1, -2)}, "price_per_million", id="negative-price"),
    ],
)
def test_limits_when_a_field_is_wrong_then_the_error_names_it(fields, says):
    with pytest.raises(ConfigurationError) as raised:
        RolloutLimits(**fields)

    assert says in str(raised.value)


def test_runtime_when_limits_are_no_limits_then_refused():
    with pytest.raises(ConfigurationError, match=r"RolloutLimits\(max_turns=8\)"):
        LocalRuntime(limits={"max_turns": 3})


# --- what the runtime does -------------------------------------------------------------------------------------------


def test_call_when_the_turns_are_used_up_then_400_with_a_code_and_no_turn(limited):
    runtime, wire = limited(max_turns=2)
    payload, other = runtime.new_rollout("p"), runtime.new_rollout("p")

    assert statuses(wire, payload, 2) == [200, 200]
    refused = wire.chat(payload)

    assert refused.status_code == 400
    assert refused.headers["x-amzn-ErrorType"] == "rollout_limit_exceeded"
    assert refused.json()["error"]["code"] == "rollout_limit_exceeded"
    assert "max_turns=2 (turns: 2)" in refused.json()["Message"]
    assert len(runtime.trajectory(payload["metadata"]["rolloutId"]).turns) == 2
    assert wire.chat(other).status_code == 200
    assert wire.complete(payload).status_code == 200
    assert wire.reward(payload, (0.5, 1.0)).status_code == 200


@pytest.mark.parametrize(
    ("limits", "turns", "says"),
    [
        pytest.param(
            {"max_total_tokens": 240}, 2, "max_total_tokens=240 (turns: 2, tokens: 240)", id="tokens-to-the-last"
        ),
        pytest.param({"max_total_tokens": 241}, 3, "max_total_tokens=241 (turns: 3, tokens: 360)", id="tokens-crossed"),
        pytest.param(
            {"max_cost": 0.5, "price_per_million": (1000, 5000)}, 3, "max_cost=0.5 (turns: 3, cost: 0.6)", id="cost"
        ),
        pytest.param(
            {"max_turns": 1, "max_total_tokens": 1000}, 1, "max_turns=1 (turns: 1)", id="the-first-one-counts"
        ),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/sample"])
@pytest.mark.parametrize("stream", [False, True])
def test_call_when_tokens_or_cost_are_used_up_then_refused(limited, limits, turns, says, path, stream):
    runtime, wire = limited(**limits)
    payload = runtime.new_rollout("p")

    answers = [wire.chat(payload, path=path, stream=stream) for _ in range(turns + 2)]

    assert [answer.status_code for answer in answers] == [200] * turns + [400] * 2
    assert says in answers[-1].json()["Message"]


def test_call_when_it_repeats_a_span_past_the_limit_then_answered_from_the_record(limited):
    runtime, wire = limited(max_turns=1)
    payload = runtime.new_rollout("p")

    first = wire.chat(payload, span="one")

    assert wire.chat(payload, span="two").status_code == 400
    assert wire.chat(payload, span="one").content == first.content


def test_call_when_the_policy_failed_then_that_used_up_no_turn(limited):
    answers = iter([PolicyError("busy", 503), "one", "two"])

    def policy(request):
        answer = next(answers)
        if isinstance(answer, PolicyError):
            raise answer
        return answer

    runtime, wire = limited(policy, max_turns=2)

    assert statuses(wire, runtime.new_rollout("p"), 4) == [503, 200, 200, 400]


def test_call_when_others_are_in_flight_then_they_count(limited, open_wire):
    begun, go_on = threading.Barrier(3), threading.Event()

    def wait(request):
        begun.wait(30)
        go_on.wait(30)
        return "word"

    runtime, wire = limited(wait, max_turns=2)
    payload = runtime.new_rollout("p")
    threads = [threading.Thread(target=open_wire(runtime).chat, args=(payload,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    begun.wait(30)

    refused = wire.chat(payload)
    go_on.set()
    for thread in threads:
        thread.join(30)

    assert refused.status_code == 400
    assert len(runtime.trajectory(payload["metadata"]["rolloutId"]).turns) == 2


@pytest.mark.parametrize("capture", ["full", "last", "none"])
def test_tokens_when_the_runtime_is_started_again_then_counted_from_its_database(limited, tmp_path, capture):
    first, wire = limited(db=tmp_path / "runs.db", capture=capture, max_total_tokens=300)
    payload = first.new_rollout("p")
    assert statuses(wire, payload, 2) == [200, 200]
    first.stop()

    _, wire = limited(db=tmp_path / "runs.db", capture=capture, max_total_tokens=300)

    assert statuses(wire, payload, 2) == [200, 400]


def test_tokens_when_the_policy_gives_no_usage_then_one_warning_and_no_limit(limited, caplog):
    runtime, wire = limited(lambda request: "word", max_total_tokens=1)

    assert statuses(wire, runtime.new_rollout("p"), 3) == [200] * 3
    assert [record.getMessage()[:40] for record in caplog.records] == ["an answer of the policy has no usage, so"]


# --- what clients make of it -----------------------------------------------------------------------------------------


class Counting(Faults):
    """Makes no trouble, and counts the inference calls that arrive."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def draw(self, route, headers, body):
        self.calls += route == "inference"
        return None


def look_up_for_ever(request):
    """Ask for a tool in every turn."""
    function = {"name": "look_up", "arguments": json.dumps({"name": str(len(request["messages"]))})}
    return {"tool_calls": [{"id": f"c{len(request['messages'])}", "type": "function", "function": function}]}


@tool
def look_up(name: str) -> str:
    """Look up a name.

    Args:
        name: The name.
    """
    return name


class Verdict(BaseModel):
    """What is asked for."""

    answer: int


def strands(prompt, **config):
    Agent(model=runtime_model(**config), tools=[look_up], callback_handler=None)(prompt)


def strands_sub_agent(prompt):
    @tool
    def ask(name: str) -> str:
        """Ask another agent."""
        return str(Agent(model=runtime_model(), tools=[look_up], callback_handler=None)(name))

    Agent(model=runtime_model(), tools=[look_up, ask], callback_handler=None)(prompt)


def openai_chat(prompt, **more):
    with instrument(openai.OpenAI(**runtime_client_args())) as client:
        messages = [{"role": "user", "content": prompt}]
        for _ in range(9):
            answer = client.chat.completions.create(model="default", messages=messages, **more)
            for _ in answer if more else ():
                pass


def openai_responses(prompt):
    with instrument(openai.OpenAI(**runtime_client_args())) as client:
        for _ in range(9):
            client.responses.create(model="default", input=prompt)


def langchain(prompt, **more):
    chat = ChatOpenAI(model="default", **runtime_client_args(), **http_clients(), **more)
    for _ in range(9):
        chat.invoke(prompt)


def plain_http(prompt):
    for _ in range(9):
        requests.post(
            runtime_client_args()["base_url"] + "/chat/completions",
            headers=RFTContext.get_headers(),
            json={"messages": [{"role": "user", "content": prompt}]},
            timeout=30,
        ).raise_for_status()


def boto3_client(prompt):
    client = boto3.client(
        "sagemakerjobruntime",
        region_name="us-west-2",
        endpoint_url=runtime_client_args()["base_url"].removesuffix("/v1"),
        aws_access_key_id="AKIDEXAMPLE",
        aws_secret_access_key="a-secret-for-tests",
    )
    metadata = RFTContext.current().metadata
    with contextlib.closing(client):
        for _ in range(9):
            client.sample(
                JobArn=metadata.job_arn,
                TrajectoryId=metadata.trajectory_id,
                Body=json.dumps({"messages": [{"role": "user", "content": prompt}]}),
            )["Body"].read()


AGENTS = [
    pytest.param(strands, id="strands"),
    pytest.param(lambda prompt: strands(prompt, stream=False), id="strands-without-streams"),
    pytest.param(strands_sub_agent, id="strands-agent-as-tool"),
    pytest.param(openai_chat, id="openai"),
    pytest.param(lambda prompt: openai_chat(prompt, stream=True), id="openai-stream"),
    pytest.param(openai_responses, id="openai-responses"),
    pytest.param(langchain, id="langchain"),
    pytest.param(lambda prompt: langchain(prompt, streaming=True), id="langchain-stream"),
    pytest.param(lambda prompt: langchain(prompt, use_responses_api=True), id="langchain-responses"),
    pytest.param(plain_http, id="requests"),
    pytest.param(boto3_client, id="boto3"),
]


@pytest.mark.parametrize("limits", [{"max_turns": 3}, {"max_total_tokens": 300}], ids=["turns", "tokens"])
@pytest.mark.parametrize("agent", AGENTS)
def test_rollout_when_past_a_limit_then_the_kind_is_limit_and_nothing_is_repeated(limited, agent, limits):
    def policy(request):
        message = look_up_for_ever(request) if request.get("tools") else {"content": "word"}
        return {"choices": [{"message": message}], "usage": USAGE}

    arrived, kinds = Counting(), []
    runtime, _ = limited(policy, faults=arrived, **limits)

    @rft_handler(on_error=lambda error: kinds.append(error.kind) or 0.25)
    def handler(payload):
        agent(payload["prompt"])
        return 1.0

    payload = runtime.new_rollout("2+2?")
    with pytest.raises(Exception) as raised:  # noqa: PT011 - each library has its own
        handler(payload)

    assert (kinds, raised.value.kind) == (["limit"], "limit")
    assert arrived.calls == 4
    trajectory = runtime.trajectory(payload["metadata"]["rolloutId"])
    assert (len(trajectory.turns), trajectory.rewards) == (3, (0.25,))
    assert not runtime.problems()


@pytest.mark.parametrize("agent", AGENTS[:-2])  # headers alone do not tell which calls were answered
def test_rollout_when_the_handler_catches_the_limit_then_it_completes_with_its_reward(limited, agent):
    runtime, _ = limited(lambda request: look_up_for_ever(request) if request.get("tools") else "word", max_turns=2)

    @rft_handler(on_error="failed")
    def handler(payload):
        try:
            agent(payload["prompt"])
        except Exception:
            return {"rewards": [0.5] * RFTContext.current().turns.answered}

    payload = runtime.new_rollout("2+2?")
    handler(payload)

    assert runtime.trajectory(payload["metadata"]["rolloutId"]).rewards == (0.5, 0.5)
    assert not runtime.problems()


def test_structured_output_when_past_a_limit_then_the_kind_is_limit(limited):
    kinds = []
    runtime, _ = limited(lambda request: "no object", max_turns=2)

    @rft_handler(on_error=lambda error: kinds.append(error.kind) or 0.0)
    def handler(payload):
        agent = Agent(model=runtime_model(), callback_handler=None)
        for _ in range(5):
            agent(payload["prompt"])
        agent.structured_output(Verdict, payload["prompt"])

    with pytest.raises(openai.BadRequestError):
        handler(runtime.new_rollout("2+2?"))

    assert kinds == ["limit"]
