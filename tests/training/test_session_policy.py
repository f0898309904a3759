"""A real agent whose turns are sampled in a training session, with a tokenizer here and a model there."""

import pytest

pytest.importorskip("trl", reason="needs the extra train")

import boto3
import openai
from strands import Agent, tool
from strands.models.openai import OpenAIModel
from training.session_server import NAME, Sessions
from training.tiny import call_text, tiny_tokenizer

from aws_rft_sdk import RFTContext, wrap_model
from aws_rft_sdk.adapters.openai import runtime_client_args
from aws_rft_sdk.runtime import LocalRuntime
from aws_rft_sdk.training.rows import rows_of
from aws_rft_sdk.training.session_policy import SessionPolicy
from aws_rft_sdk.training.training_session import TrainingSession, datum

TOKENIZER = tiny_tokenizer()
BOTO3 = boto3.Session(region_name="us-west-2")


@tool
def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


@pytest.fixture
def server():
    with Sessions() as sessions:
        yield sessions


@pytest.fixture
def session(server):
    return TrainingSession(NAME, session=BOTO3, endpoint_url=server.url, poll_seconds=0.001, timeout_seconds=20)


def calculates(prompt):
    """Call the tool, then answer."""
    text = TOKENIZER.decode(prompt)
    said = "two" if "<tool_response>" in text else call_text("add", a=1, b=1)
    return [*TOKENIZER(said, add_special_tokens=False)["input_ids"], TOKENIZER.eos_token_id]


def test_an_agent_with_a_tool_makes_one_row_that_the_session_trains_on(server, session):
    server.speak = calculates
    with LocalRuntime(SessionPolicy(session.sample, TOKENIZER)) as runtime:
        payload = runtime.new_rollout("1 + 1?")
        with RFTContext.bind(payload):
            model = wrap_model(OpenAIModel(client_args=runtime_client_args(), model_id="default"))
            answer = Agent(model=model, tools=[add], callback_handler=None)("1 + 1?")
        trajectory = runtime.trajectory(payload["metadata"]["rolloutId"])

    [row] = rows_of(trajectory)
    session.forward_backward([datum(row, row.per_token([1.0, 1.0]), "ppo")], "ppo")
    assert str(answer).strip() == "two"
    assert len(trajectory.turns) == 2
    assert (server.wrong, server.done) == ([], ["forwardBackward"])


def test_a_session_that_fails_is_answered_503(server, session):
    server.answer_logprobs = False
    with (
        LocalRuntime(SessionPolicy(session.sample, TOKENIZER)) as runtime,
        RFTContext.bind(runtime.new_rollout("?")) as context,
        openai.OpenAI(**runtime_client_args(), max_retries=0, default_headers=context.headers()) as client,
        pytest.raises(openai.InternalServerError, match="gave 0 log-probabilities") as told,
    ):
        client.chat.completions.create(model="default", messages=[{"role": "user", "content": "?"}])
    assert told.value.status_code == 503
