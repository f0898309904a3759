"""The proof of a handler: right ones pass, and each kind of wrong one is found with its cause."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from strands import Agent, tool
from strands.models.openai import OpenAIModel

from aws_rft_sdk import RFTContext, rft_handler
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.proof import CauseKind, Proof, Trial, prove_handler, prove_mixture

from .broken import RetriesBlindly, ask, model_of, wrapped

EXAMPLE = Path(__file__).parents[2] / "examples" / "gsm8k_calculator"
FEW = Trial(rollouts=16, threads=8)


def kinds(proof: Proof) -> list[CauseKind]:
    return [cause.kind for cause in proof.causes]


# --- handlers that are right -----------------------------------------------------------------------------------------


@rft_handler
def right(payload: dict[str, Any]) -> dict[str, float]:
    ask(wrapped(payload), payload["prompt"])
    return {"reward": 1.0}


@rft_handler
async def right_async(payload: dict[str, Any]) -> dict[str, float]:
    await Agent(model=wrapped(payload), callback_handler=None).invoke_async(payload["prompt"])
    return {"reward": 1.0}


@rft_handler
def right_generator(payload: dict[str, Any]) -> Any:
    yield ask(wrapped(payload), payload["prompt"])
    yield {"reward": 1.0}


@rft_handler
async def right_async_generator(payload: dict[str, Any]) -> Any:
    async for event in Agent(model=wrapped(payload), callback_handler=None).stream_async(payload["prompt"]):
        if "data" in event:
            yield event["data"]
    yield {"reward": 1.0}


class Callable_:
    @rft_handler
    async def __call__(self, payload: dict[str, Any]) -> float:
        await Agent(model=wrapped(payload), callback_handler=None).invoke_async(payload["prompt"])
        return 1.0


@pytest.mark.parametrize(
    "handler",
    [
        pytest.param(right, id="function"),
        pytest.param(right_async, id="coroutine function"),
        pytest.param(right_generator, id="generator"),
        pytest.param(right_async_generator, id="async generator"),
        pytest.param(Callable_(), id="callable object"),
    ],
)
def test_right_handler_of_any_kind_is_proved(handler):
    proof = prove_handler(handler, trial=FEW)

    assert proof.causes == ()
    assert proof.is_passed, proof.causes
    assert proof.verdict.unproven == ()
    assert len(proof.outcomes) == 16
    assert sum(outcome.error is not None for outcome in proof.outcomes) == 2  # those whose answer was lost
    assert proof.verdict.requests - proof.verdict.turns == 4  # 429 and 503


@pytest.mark.parametrize("rollouts", [96])
def test_example_agent_is_proved_with_its_own_prompts(rollouts):
    prompts = [json.loads(line)["prompt"] for line in (EXAMPLE / "problems.jsonl").read_text().splitlines()]

    proof = prove_handler(f"{EXAMPLE / 'agent.py'}:handler", prompts, Trial(rollouts=rollouts, outside=6))

    assert proof.causes == ()
    assert proof.is_passed, proof.causes
    assert proof.outside_calls == 6
    assert proof.verdict.unproven == ()
    assert not any("marker" in note for note in proof.notes)


def test_model_wrapped_at_import_is_proved_in_and_outside_rollouts(tmp_path):
    handler = write_agent(tmp_path, "right_import", "model = wrap_model(OpenAIModel(model_id='default'))")

    proof = prove_handler(handler, trial=Trial(rollouts=16, threads=8, outside=4))

    assert proof.causes == ()
    assert proof.verdict.stray == ()
    assert proof.verdict.turns == 16 + 4


def test_pool_that_is_given_the_context_is_proved():
    @rft_handler
    def handler(payload: dict[str, Any]) -> float:
        with ThreadPoolExecutor(2) as pool:
            for done in [
                pool.submit(RFTContext.carry(ask), wrapped(payload), payload["prompt"] + part) for part in "ab"
            ]:
                done.result()
        return 1.0

    assert prove_handler(handler, trial=FEW).is_passed


def write_agent(folder: Path, name: str, model: str) -> str:
    file = folder / f"{name}.py"
    file.write_text(
        "from strands import Agent\n"
        "from strands.models.openai import OpenAIModel\n"
        "from aws_rft_sdk import RFTContext, rft_handler, wrap_model\n"
        f"{model}\n"
        "@rft_handler\n"
        "def handler(payload):\n"
        "    Agent(model=model, callback_handler=None)(payload['prompt'])\n"
        "    return {'reward': 1.0}\n"
    )
    return f"{file}:handler"


# --- handlers that are wrong -----------------------------------------------------------------------------------------


def test_model_built_at_import_and_not_wrapped_is_named(tmp_path):
    handler = write_agent(tmp_path, "unwrapped_import", "model = OpenAIModel(model_id='default')")

    proof = prove_handler(handler, trial=FEW)

    assert kinds(proof) == [CauseKind.UNWRAPPED_MODEL]
    assert "agent 'Strands Agents' asked default (OpenAIModel)" in proof.causes[0].what
    assert len(proof.verdict.untracked) == proof.verdict.requests


def shared_headers_handler() -> Any:
    models: list[OpenAIModel] = []
    lock = threading.Lock()

    @rft_handler
    def handler(payload: dict[str, Any]) -> float:
        with lock:
            if not models:
                models.append(model_of(payload))
        models[0].update_config(params={"extra_headers": RFTContext.get_headers()})
        agent = Agent(model=models[0], callback_handler=None)
        agent(payload["prompt"])
        agent("go on")
        return 1.0

    return handler


def test_headers_written_to_a_shared_model_are_found():
    proof = prove_handler(shared_headers_handler(), trial=Trial(rollouts=32, threads=8, faults=False))

    # A handler raises as well if the trajectory whose headers it was given is sealed already.
    assert CauseKind.SHARED_HEADERS in kinds(proof)
    assert len(proof.verdict.wrong) >= 7


def test_headers_left_on_a_shared_model_are_found_by_calls_outside(tmp_path):
    handler = write_agent(
        tmp_path,
        "stale",
        "class Writes(OpenAIModel):\n"
        "    async def stream(self, *args, **kwargs):\n"
        "        self.client_args.setdefault('default_headers', {}).update(RFTContext.get_headers())\n"
        "        async for event in super().stream(*args, **kwargs):\n"
        "            yield event\n"
        "model = Writes(client_args={'max_retries': 0}, model_id='default')",
    )

    proof = prove_handler(handler, trial=Trial(rollouts=16, threads=8, outside=4, faults=False))

    assert CauseKind.STALE_HEADERS in kinds(proof)
    assert len(proof.verdict.stray) >= 2


def test_pool_without_the_context_is_told_from_a_model_that_is_not_wrapped():
    @rft_handler
    def handler(payload: dict[str, Any]) -> float:
        ask(wrapped(payload), payload["prompt"])
        with ThreadPoolExecutor(1) as pool:
            pool.submit(ask, wrapped(payload), payload["prompt"]).result()
        return 1.0

    proof = prove_handler(handler, trial=Trial(rollouts=16, threads=8, faults=False))

    assert kinds(proof) == [CauseKind.LOST_CONTEXT]
    assert len(proof.verdict.untracked) == 16


def test_thread_that_does_all_the_work_without_the_context_is_found():
    @rft_handler
    def handler(payload: dict[str, Any]) -> float:
        thread = threading.Thread(target=ask, args=(wrapped(payload), payload["prompt"]))
        thread.start()
        thread.join()
        return 1.0

    proof = prove_handler(handler, trial=Trial(rollouts=16, threads=8, faults=False))

    assert kinds(proof) == [CauseKind.LOST_CONTEXT]
    assert len(proof.verdict.untracked) == proof.verdict.requests == 16


def test_sub_agent_over_a_model_that_is_not_wrapped_is_told_from_a_thread():
    @rft_handler
    def handler(payload: dict[str, Any]) -> float:
        @tool
        def expert(question: str) -> str:
            """Ask an expert.

            Args:
                question: What to ask.
            """
            return ask(model_of(payload), question)

        ask(wrapped(payload), payload["prompt"], expert)
        return 1.0

    proof = prove_handler(handler, trial=Trial(rollouts=16, threads=8, faults=False))

    assert kinds(proof) == [CauseKind.UNWRAPPED_MODEL]
    assert "a sub-agent's" in proof.causes[0].what
    assert (proof.verdict.requests, len(proof.verdict.untracked)) == (48, 16)


def test_client_retries_of_sampled_turns_are_found():
    @rft_handler
    def handler(payload: dict[str, Any]) -> float:
        ask(model_of(payload, RetriesBlindly), payload["prompt"])
        return 1.0

    proof = prove_handler(handler, trial=FEW)

    assert kinds(proof) == [CauseKind.CLIENT_RETRIES]
    assert len(proof.verdict.duplicates) == 2


def test_handler_that_is_not_decorated_is_found():
    def handler(payload: dict[str, Any]) -> float:
        ask(wrapped(payload), payload["prompt"])
        return 1.0

    assert kinds(prove_handler(handler, trial=FEW)) == [CauseKind.NOT_DECORATED]


def test_reward_that_is_missing_is_found():
    @rft_handler
    def handler(payload: dict[str, Any]) -> dict[str, str]:
        return {"answer": ask(wrapped(payload), payload["prompt"])}

    proof = prove_handler(handler, trial=FEW)

    assert kinds(proof) == [CauseKind.NO_REWARD]
    assert "RewardError" in proof.causes[0].what


@rft_handler(reward="deferred")
def deferred(payload: dict[str, Any]) -> dict[str, str]:
    return {"answer": ask(wrapped(payload), payload["prompt"])}


def test_reward_that_is_never_delivered_is_found():
    assert kinds(prove_handler(deferred, trial=FEW)) == [CauseKind.NOT_DELIVERED]


def test_reward_that_is_delivered_elsewhere_is_no_mistake_when_it_is_said():
    assert prove_handler(deferred, trial=Trial(rollouts=16, threads=8, deferred=True)).is_passed


def test_handler_that_talks_to_nobody_is_found():
    @rft_handler
    def handler(payload: dict[str, Any]) -> float:
        return 1.0

    assert kinds(prove_handler(handler, trial=FEW)) == [CauseKind.NO_INFERENCE]


def test_handler_that_raises_is_found_with_its_error():
    @rft_handler
    def handler(payload: dict[str, Any]) -> float:
        ask(wrapped(payload), payload["prompt"])
        raise KeyError("colour")

    proof = prove_handler(handler, trial=FEW)

    assert kinds(proof) == [CauseKind.HANDLER_RAISED]
    assert "KeyError: 'colour'" in proof.causes[0].what


def test_agent_shared_by_rollouts_is_found():
    agents: list[Agent] = []
    lock = threading.Lock()

    @rft_handler
    def handler(payload: dict[str, Any]) -> float:
        with lock:
            if not agents:
                agents.append(Agent(model=wrapped(payload), callback_handler=None))
            agents[0](payload["prompt"])
        return 1.0

    proof = prove_handler(handler, trial=Trial(rollouts=8, threads=4, faults=False))

    assert kinds(proof) == [CauseKind.SHARED_CONVERSATION]


# --- prompts that take no marker -------------------------------------------------------------------------------------


def hides_prompt(handler_turn: Any) -> Any:
    @rft_handler
    def handler(payload: dict[str, Any]) -> float:
        handler_turn(payload)
        return 1.0

    return handler


def test_marker_that_does_not_arrive_is_said_and_other_evidence_decides():
    proof = prove_handler(hides_prompt(lambda payload: ask(wrapped(payload), "the same for all")), trial=FEW)

    assert proof.is_passed, proof.causes
    assert proof.verdict.unproven
    assert "no marker arrived" in proof.notes[0]


def test_headers_of_a_shared_model_are_found_without_markers():
    models: list[OpenAIModel] = []
    lock = threading.Lock()

    def turn(payload: dict[str, Any]) -> None:
        with lock:
            if not models:
                models.append(model_of(payload))
        models[0].update_config(params={"extra_headers": RFTContext.get_headers()})
        agent = Agent(model=models[0], callback_handler=None)
        agent("the same for all")
        agent("go on")

    proof = prove_handler(hides_prompt(turn), trial=Trial(rollouts=16, threads=8))

    assert kinds(proof) == [CauseKind.SHARED_HEADERS]


def test_model_that_is_not_wrapped_is_found_without_markers():
    proof = prove_handler(hides_prompt(lambda payload: ask(model_of(payload), "the same for all")), trial=FEW)

    assert kinds(proof) == [CauseKind.UNWRAPPED_MODEL]


@pytest.mark.parametrize(
    "prompt",
    [
        pytest.param('{"id": "a very long identifier that is looked up", "text": "hello"}', id="object"),
        pytest.param('[{"role": "user", "content": "hello"}]', id="list"),
    ],
)
def test_marker_finds_the_string_of_a_json_prompt_that_reaches_the_model(prompt):
    @rft_handler
    def handler(payload: dict[str, Any]) -> float:
        cell = json.loads(payload["prompt"])
        text = cell["text"] if isinstance(cell, dict) else cell[0]["content"]
        if isinstance(cell, dict) and cell["id"] != "a very long identifier that is looked up":
            raise LookupError(cell["id"])
        ask(wrapped(payload), text)
        return 1.0

    proof = prove_handler(handler, [prompt], FEW)

    assert proof.is_passed, proof.causes
    assert proof.verdict.unproven == ()
    assert proof.notes[:1] != ()


# --- use -------------------------------------------------------------------------------------------------------------


def test_no_prompts_are_refused():
    with pytest.raises(ConfigurationError, match="at least one prompt"):
        prove_handler(right, [])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        pytest.param({"deadline_seconds": 0}, "deadline_seconds is 0", id="no time"),
        pytest.param({"deadline_seconds": float("nan")}, "deadline_seconds must be a finite number", id="no number"),
        pytest.param({"skip_tools": "delete"}, r"skip_tools is the text 'delete'; give a tuple", id="text for a tuple"),
    ],
)
def test_trial_that_makes_no_sense_is_refused(fields, said):
    with pytest.raises(ConfigurationError, match=said):
        Trial(**fields)


def test_environment_and_threads_are_as_before(monkeypatch):
    import os

    monkeypatch.setenv("OPENAI_API_KEY", "of the user")
    submit, start = ThreadPoolExecutor.submit, threading.Thread.start

    prove_handler(hides_prompt(lambda payload: ask(model_of(payload), "hello")), trial=Trial(rollouts=2, threads=2))

    assert os.environ["OPENAI_API_KEY"] == "of the user"
    assert "OPENAI_BASE_URL" not in os.environ
    assert (ThreadPoolExecutor.submit, threading.Thread.start) == (submit, start)


def test_second_proof_at_the_same_time_is_refused_and_the_first_one_goes_on():
    refusals = []

    def work(payload: dict[str, Any]) -> None:
        for second in (lambda: prove_handler(handler, trial=FEW), lambda: prove_mixture(rollouts=1, threads=1)):
            with pytest.raises(ConfigurationError, match="another proof is running") as caught:
                second()
            refusals.append(caught.value)
        ask(wrapped(payload), payload["prompt"])

    handler = hides_prompt(work)
    proof = prove_handler(handler, trial=Trial(rollouts=2, threads=2, faults=False))

    assert proof.is_passed, proof.causes
    assert len(refusals) == 6  # two in the rollout that is run alone, and two in each of the others
