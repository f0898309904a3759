"""Agents whose turns are answered by vLLM, and the rows that their recorded turns give.

vLLM itself needs a GPU. A server with its routes stands in for it: `vllm_server`.
"""

from __future__ import annotations

import json

import openai
import pytest
from strands import Agent, tool
from strands.models.openai import OpenAIModel
from training.vllm_server import VLLM

from aws_rft_sdk import RFTContext, wrap_model
from aws_rft_sdk.adapters.openai import runtime_client_args
from aws_rft_sdk.errors import PayloadError
from aws_rft_sdk.runtime import LocalRuntime, UpstreamPolicy
from aws_rft_sdk.training.rows import rows_of


@pytest.fixture(scope="module")
def _served():
    server = VLLM()
    stop = server.start()
    yield server
    stop()


@pytest.fixture
def vllm(_served):
    _served.says = lambda prompt: "ok"
    _served.samples.clear()
    _served.statuses.clear()
    return _served


@pytest.fixture
def runtime(vllm):
    with LocalRuntime(UpstreamPolicy(vllm.url, return_token_ids=True), auth="none") as runtime:
        yield runtime


@tool
def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: One.
        b: The other.
    """
    return a + b


def calculates(prompt: str) -> str:
    """Call the tool twice, then answer."""
    results = prompt.count("<|im_start|>tool")
    arguments = json.dumps({"a": results, "b": 2})
    call = f'<tool_call>\n{{"name": "add", "arguments": {arguments}}}\n</tool_call>'
    return f"we add again{call}" if results < 2 else "the answer is four"


def play(runtime: LocalRuntime, stream: bool, temperature: float):
    """Run a real agent, and return its trajectory and its answer."""
    payload = runtime.new_rollout("p")
    with RFTContext.bind(payload):
        params = {"temperature": temperature, "max_tokens": 500}
        model = OpenAIModel(client_args=runtime_client_args(), model_id="default", stream=stream, params=params)
        answer = str(Agent(model=wrap_model(model), tools=[add], callback_handler=None)("what is it?")).strip()
    return runtime.trajectory(payload["metadata"]["rolloutId"]), answer


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_agent_when_vllm_answers_then_turns_hold_its_tokens_and_rows_cover_them(
    vllm, runtime, stream, temperature
) -> None:
    vllm.says = calculates
    trajectory, answer = play(runtime, stream, temperature)
    assert answer == "the answer is four"
    recorded = [(turn.prompt_token_ids, turn.token_ids, turn.logprobs) for turn in trajectory.turns]
    assert recorded == [(tuple(s.prompt), tuple(s.tokens), tuple(s.logprobs)) for s in vllm.samples]
    assert all(sample.request["temperature"] == temperature for sample in vllm.samples)
    rows = rows_of(trajectory)
    assert sum(sum(row.mask) for row in rows) == sum(len(sample.tokens) for sample in vllm.samples)
    if temperature == 0:
        # The tokens of the history, encoded anew, are those that were sampled.
        assert [row.ids for row in rows] == [tuple(vllm.samples[-1].prompt + vllm.samples[-1].tokens)]
    else:
        # Some were sampled as two tokens where the encoder has one. Each such turn begins a row, and says where.
        assert len(rows) == 3
        assert all("which turn" in row.began and row.began.endswith("sampled") for row in rows[1:])


def test_agent_when_arguments_are_written_otherwise_than_sampled_then_the_row_breaks_there(vllm, runtime) -> None:
    vllm.says = lambda prompt: calculates(prompt).replace(": ", ":")
    rows = rows_of(play(runtime, True, 0.0)[0])
    assert len(rows) == 3


def ask(runtime, **fields):
    """Call the runtime once with the openai client, and return the trajectory."""
    payload = runtime.new_rollout("p")
    metadata = payload["metadata"]
    headers = {"X-Rft-Job-Arn": metadata["jobArn"], "X-Trajectory-Id": metadata["rolloutId"]}
    base_url = f"{metadata['endpoint']}/v1"
    with openai.OpenAI(base_url=base_url, api_key="x", max_retries=0, default_headers=headers) as client:
        try:
            answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], **fields)
            if fields.get("stream"):
                list(answer)
        except openai.InternalServerError as error:
            return runtime.trajectory(metadata["rolloutId"]), error
    return runtime.trajectory(metadata["rolloutId"]), None


@pytest.mark.parametrize(
    "fields", [{}, {"logprobs": False}, {"logprobs": True, "top_logprobs": 2}], ids=["unasked", "refused", "more"]
)
def test_upstream_when_the_agent_asks_for_other_logprobs_then_the_rows_have_theirs(vllm, runtime, fields) -> None:
    trajectory, _ = ask(runtime, **fields)
    assert vllm.samples[0].request == {**vllm.samples[0].request, **fields, "logprobs": True, "return_token_ids": True}
    (row,) = rows_of(trajectory)
    assert row.completion_ids == tuple(vllm.samples[0].tokens)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_upstream_when_vllm_fails_after_sampling_then_it_is_asked_once_and_no_turn_is_recorded(
    vllm, runtime, stream
) -> None:
    vllm.statuses.append(500)
    trajectory, error = ask(runtime, stream=stream)
    assert error is not None
    assert len(vllm.samples) == 1
    assert trajectory.turns == ()


def test_upstream_when_nothing_is_asked_for_then_there_are_no_rows(vllm, runtime) -> None:
    runtime.policy = UpstreamPolicy(vllm.url)
    trajectory, _ = ask(runtime)
    assert not {"return_token_ids", "logprobs"} & set(vllm.samples[0].request)
    with pytest.raises(PayloadError, match="has no prompt_token_ids and no token_ids and no logprobs"):
        rows_of(trajectory)
