"""A runtime that is serving: what it shows, to whom, and a view of it."""

import json

import pytest
import requests
from strands import Agent, tool
from strands.models.openai import OpenAIModel

from aws_rft_sdk import LocalRuntime, rft_handler, wrap_model
from aws_rft_sdk.adapters.openai import runtime_client_args
from aws_rft_sdk.errors import ConfigurationError, UnavailableError
from aws_rft_sdk.lifecycle.calling import run_handler
from aws_rft_sdk.lifecycle.loops import run
from aws_rft_sdk.runs.looking import RunView
from aws_rft_sdk.runs.where import parse_where

KEY = "k" * 32


@tool
def look_up(key: str) -> str:
    """Look something up.

    Args:
        key: What to look up.
    """
    return f"value of {key}"


@rft_handler
async def handler(payload):
    model = wrap_model(OpenAIModel(client_args=runtime_client_args(), model_id="default"))
    agent = Agent(model=model, tools=[look_up], system_prompt="Use the tool.", callback_handler=None)
    return {"reward": float(len(str(await agent.invoke_async(payload["prompt"]))))}


def policy(request):
    results = [message for message in request["messages"] if message["role"] == "tool"]
    if results:
        return f"It is {results[-1]['content']}."
    function = {"name": "look_up", "arguments": '{"key": "alpha"}'}
    return {"content": None, "tool_calls": [{"type": "function", "function": function}]}


def play(runtime, prompt="look up alpha"):
    payload = runtime.new_rollout(prompt)
    run(run_handler(handler, payload, trajectory_id=payload["metadata"]["rolloutId"]))
    return payload["metadata"]["rolloutId"]


@pytest.mark.parametrize("capture", ["full", "last", "none"])
@pytest.mark.parametrize("key", [None, KEY])
def test_view_when_of_a_running_runtime_then_real_rollouts_are_shown_as_they_come(monkeypatch, capture, key):
    if key:
        monkeypatch.setenv("RFT_RUNTIME_KEY", key)
    with LocalRuntime(policy, capture=capture, key=key) as runtime:
        first = play(runtime)
        with RunView.open(runtime.endpoint) as view:
            assert view.update().is_done
            (one,) = view.rollouts().rollouts
            assert (one.trajectory_id, one.outcome, one.turns, one.reward) == (first, "completed", 2, 22.0)
            found = view.conversation(view.find(first[:6]))
            assert [turn.span_id for turn in found.turns] == [t.span_id for t in runtime.trajectory(first).turns]
            if capture == "none":
                assert found.messages == ()
                assert "--capture none" in found.notes[0]
            else:
                roles = ["system", "user", "assistant", "tool", "assistant"]
                assert [message.role for message in found.messages] == roles
                assert one.tools == {"look_up": 1}
                assert found.messages[3].tool == "look_up"

            pending = runtime.new_rollout("another")["metadata"]["rolloutId"]
            second = play(runtime)
            view.update()
            assert [r.trajectory_id for r in view.rollouts(sort="started_at").rollouts] == [first, pending, second]
            assert [r.trajectory_id for r in view.group(0)] == [first, second]
            assert view.rollouts(parse_where("text.tool~'value of al'")).matched == (0 if capture == "none" else 2)


def test_runtime_when_asked_in_pages_then_every_trajectory_comes_once():
    with LocalRuntime(policy) as runtime:
        ids = [runtime.new_rollout(f"p{number}")["metadata"]["rolloutId"] for number in range(5)]

        def page(**query):
            answer = requests.get(f"{runtime.endpoint}/local/trajectories", params=query, timeout=10)
            assert answer.headers["Cache-Control"] == "no-store"
            return [fields["trajectory_id"] for fields in answer.json()["trajectories"]]

        assert page() == ids
        assert page(first=3, limit=1) == ids[3:4]
        assert page(numbers="1,4,77") == [ids[1], ids[4]]
        assert page(limit=0) == []
        for wrong in ({"first": "x"}, {"numbers": ""}, {"limit": 10**30}):
            answer = requests.get(f"{runtime.endpoint}/local/trajectories", params=wrong, timeout=10)
            assert (answer.status_code, "whole numbers" in answer.text) == (400, True)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("localhost:{port}", 200),
        ("LOCALHOST", 200),
        ("[::1]:{port}", 200),
        ("evil.example:{port}", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1@evil.example", 403),
        ("[", 403),
    ],
)
def test_trajectories_when_the_host_is_a_foreign_name_then_a_page_of_that_name_reads_nothing(host, status):
    with LocalRuntime(policy) as runtime:
        runtime.new_rollout("secret words")
        port = runtime.endpoint.rpartition(":")[2]
        answer = requests.get(
            f"{runtime.endpoint}/local/trajectories", headers={"Host": host.format(port=port)}, timeout=10
        )
        # The server itself refuses what is no host at all.
        assert answer.status_code in ({200} if status == 200 else {400, 403})
        assert ("secret words" in answer.text) == (status == 200)


def test_trajectories_when_the_runtime_has_a_public_name_then_that_is_its_own():
    with LocalRuntime(policy, public_url="http://my-box.example:1234") as runtime:
        url = runtime.endpoint.replace("my-box.example:1234", "127.0.0.1")
        port = runtime._server.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}/local/trajectories"
        assert requests.get(url, headers={"Host": "my-box.example"}, timeout=10).status_code == 200
        assert requests.get(url, headers={"Host": "other.example"}, timeout=10).status_code == 403


@pytest.mark.parametrize("given", [None, "x" * 32])
def test_view_when_the_key_is_missing_or_wrong_then_nothing_is_shown(monkeypatch, given):
    monkeypatch.delenv("RFT_RUNTIME_KEY", raising=False)
    with LocalRuntime(policy, key=KEY) as runtime:
        runtime.new_rollout("secret words")
        answer = requests.get(f"{runtime.endpoint}/local/trajectories", timeout=10)
        assert (answer.status_code, "secret words" in answer.text) == (403, False)
        with pytest.raises(ConfigurationError, match="RFT_RUNTIME_KEY") as caught:
            RunView.open(runtime.endpoint, key=given)
        assert KEY not in str(caught.value)
        with RunView.open(runtime.endpoint, key=KEY) as view:
            assert view.update().rollouts == 1


def test_view_when_nothing_or_something_else_answers_then_that_is_said():
    with pytest.raises(UnavailableError, match="no runtime answers at"):
        RunView.open("http://127.0.0.1:9")
    with pytest.raises(ConfigurationError, match="must be a URL"):
        RunView.open("ftp://127.0.0.1:9")
    with LocalRuntime(policy) as runtime, pytest.raises(ConfigurationError, match="is not a local runtime"):
        RunView.open(f"{runtime.endpoint}/elsewhere")


def test_view_when_closed_then_its_index_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with LocalRuntime(policy) as runtime:
        play(runtime)
        with RunView.open(runtime.endpoint) as view:
            view.update()
            assert list(tmp_path.iterdir())
            assert json.dumps(view.conversation(view.rollouts().rollouts[0].trajectory_id).to_json())
        assert list(tmp_path.iterdir()) == []


def test_view_when_a_proxy_is_set_then_a_runtime_of_this_machine_is_asked_without_it(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
    with LocalRuntime(policy) as runtime, RunView.open(runtime.endpoint) as view:
        runtime.new_rollout("x")
        assert view.update().rollouts == 1
