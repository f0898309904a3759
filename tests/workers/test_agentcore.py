"""A decorated handler inside AgentCore's own app, driven over HTTP as the service does."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from strands import Agent, tool
from strands.models.openai import OpenAIModel

from aws_rft_sdk import LocalRuntime, rft_handler, wrap_model
from aws_rft_sdk.adapters.openai import runtime_client_args
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.lifecycle import one_rollout
from aws_rft_sdk.types import TrajectoryStatus
from aws_rft_sdk.workers.agentcore import drained, in_background

from .web import WAIT, Gate, serving, until

BedrockAgentCoreApp = pytest.importorskip(
    "bedrock_agentcore", reason="needs: pip install -e '.[agentcore]'"
).BedrockAgentCoreApp

SESSION = {"X-Amzn-Bedrock-AgentCore-Runtime-Session-Id": "s" * 33}


def policy(request):
    """Call the tool once, then answer with what it said."""
    last = request["messages"][-1]
    if last["role"] == "tool":
        return f"#### {last['content']}"
    call = {"id": "call-1", "type": "function", "function": {"name": "double", "arguments": '{"number": 21}'}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


@pytest.fixture(scope="module")
def _runtime():
    with LocalRuntime(policy) as runtime:
        yield runtime


@pytest.fixture
def runtime(_runtime):
    _runtime.reset()
    return _runtime


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open.set()


@tool
def double(number: int) -> str:
    """Double a number.

    Args:
        number: Any.
    """
    return str(2 * number)


def agent():
    model = wrap_model(OpenAIModel(client_args=runtime_client_args(), model_id="default"))
    return Agent(model=model, tools=[double], callback_handler=None)


def judged(answer):
    return {"answer": answer, "reward": float("42" in answer)}


@rft_handler
def plain(payload):
    if "metadata" not in payload:
        return {"answer": payload["prompt"]}
    return judged(str(agent()(payload["prompt"])))


@rft_handler
async def coroutine(payload):
    if "metadata" not in payload:
        return {"answer": payload["prompt"]}
    return judged(str(await agent().invoke_async(payload["prompt"])))


@rft_handler
async def stream(payload):
    if "metadata" not in payload:
        yield {"answer": payload["prompt"]}
        return
    text = ""
    async for event in agent().stream_async(payload["prompt"]):
        if "data" in event:
            text += event["data"]
            yield event["data"]
    yield judged(text)


HANDLERS = [plain, coroutine, stream]
each_handler = pytest.mark.parametrize("handler", HANDLERS, ids=["plain", "coroutine", "stream"])


@each_handler
def test_app_when_synchronous_then_the_answer_carries_the_result_and_the_reward_is_there(runtime, handler):
    app = BedrockAgentCoreApp()
    app.entrypoint(handler)
    with serving(app) as worker, ThreadPoolExecutor(8) as threads:
        payloads = [runtime.new_rollout(f"Twice 21? {n}") for n in range(8)]
        answers = list(threads.map(lambda payload: worker.post("/invocations", payload, headers=SESSION), payloads))

    assert [answer.status_code for answer in answers] == [200] * 8
    assert all("42" in answer.text for answer in answers)
    assert [trajectory.rewards for trajectory in runtime.trajectories()] == [(1.0,)] * 8
    assert [len(trajectory.turns) for trajectory in runtime.trajectories()] == [2] * 8
    assert runtime.problems() == []


@each_handler
def test_app_when_in_background_then_it_answers_at_once_and_is_busy_until_the_reward_is_there(runtime, handler):
    asked, go_on = threading.Event(), threading.Event()

    def held(request):
        asked.set()
        assert go_on.wait(WAIT)
        return policy(request)

    runtime.policy = held
    app = BedrockAgentCoreApp()
    app.entrypoint(in_background(app)(handler))
    with serving(app) as worker:
        assert worker.get("/ping").json()["status"] == "Healthy"
        payload = runtime.new_rollout("Twice 21?")
        first = worker.post("/invocations", payload, headers=SESSION)
        again = worker.post("/invocations", payload, headers=SESSION)
        assert asked.wait(WAIT)
        assert worker.get("/ping").json()["status"] == "HealthyBusy"
        go_on.set()
        assert until(lambda: worker.get("/ping").json()["status"] == "Healthy")
        assert '"repeated": false' in first.text.replace(":false", ": false")
        assert '"repeated": true' in again.text.replace(":true", ": true")
        assert [trajectory.rewards for trajectory in runtime.trajectories()] == [(1.0,)]
    runtime.policy = policy


@each_handler
@pytest.mark.parametrize("background", [False, True])
def test_app_when_it_is_production_traffic_then_the_handler_answers(handler, background):
    app = BedrockAgentCoreApp()
    app.entrypoint(in_background(app)(handler) if background else handler)
    with serving(app) as worker:
        answer = worker.post("/invocations", {"prompt": "hello"}, headers=SESSION)

    assert answer.text.removeprefix("data: ").strip() in ('{"answer": "hello"}', '{"answer":"hello"}')


def in_thread(payload, context):
    return {"reward": 1.0, "session": context.session_id}


async def returning(payload, context):
    return {"reward": 1.0, "session": context.session_id}


async def yielding(payload, context):
    yield {"reward": 1.0, "session": context.session_id}


@pytest.mark.parametrize("handler", [in_thread, returning, yielding])
def test_app_when_its_handler_takes_the_context_then_it_gets_that_of_its_call(runtime, handler):
    app = BedrockAgentCoreApp()
    app.entrypoint(in_background(app)(rft_handler(handler, require_turns=False)))
    with serving(app) as worker:
        produced = worker.post("/invocations", {"prompt": "hello"}, headers=SESSION)
        accepted = worker.post("/invocations", runtime.new_rollout("p"), headers=SESSION)
        assert "s" * 33 in produced.text
        assert "accepted" in accepted.text
        assert until(lambda: [trajectory.rewards for trajectory in runtime.trajectories()] == [(1.0,)])


@pytest.mark.parametrize("handler", [lambda payload, request: 1.0, lambda: 1.0, None])
def test_handler_when_the_app_cannot_call_it_then_configuration_error(handler):
    with pytest.raises(ConfigurationError):
        in_background(BedrockAgentCoreApp())(handler)


def test_app_when_in_background_and_full_then_the_call_fails_and_nothing_begins(runtime, gate):
    app = BedrockAgentCoreApp()
    app.entrypoint(in_background(app, max_rollouts=1)(rft_handler(gate, require_turns=False)))
    with serving(app) as worker:
        assert worker.post("/invocations", runtime.new_rollout("p")).status_code == 200
        refused = worker.post("/invocations", runtime.new_rollout("p"))
        assert refused.status_code == 500
        assert "slots are taken" in refused.text
        gate.open.set()
        assert until(lambda: runtime.trajectories()[0].status is TrajectoryStatus.REWARD_RECEIVED)


def test_app_when_the_handler_fails_then_the_ping_does_not_stay_busy(runtime):
    app = BedrockAgentCoreApp()

    @app.entrypoint
    @in_background(app, deadline_seconds=0.2)
    @rft_handler(require_turns=False)
    async def handler(payload):
        if payload["prompt"] == "hang":
            await threading.Event()  # no awaitable: raises
        raise SystemExit(1)

    with serving(app) as worker:
        worker.post("/invocations", runtime.new_rollout("hang"))
        worker.post("/invocations", runtime.new_rollout("end"))
        assert until(lambda: worker.get("/ping").json()["status"] == "Healthy")
        assert until(lambda: [trajectory.rewards for trajectory in runtime.trajectories()] == [(0.0,)] * 2)


def test_app_when_it_ends_then_its_rollouts_are_drained(runtime, gate):
    app = BedrockAgentCoreApp(lifespan=drained)
    app.entrypoint(in_background(app)(rft_handler(gate, require_turns=False)))
    try:
        with serving(app) as worker:
            worker.post("/invocations", runtime.new_rollout("p"))
            gate.wait_for(1)
            # The drain lets it finish.
            threading.Thread(target=lambda: one_rollout._stopping.wait(WAIT) and gate.open.set()).start()
    finally:
        one_rollout.begin_again()

    assert [trajectory.rewards for trajectory in runtime.trajectories()] == [(1.0,)]
