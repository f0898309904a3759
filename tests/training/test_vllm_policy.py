"""Agents whose turns are sampled by vLLM token by token, through a server with vLLM's routes."""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

pytest.importorskip("trl", reason="needs the extra train")

import torch
from accelerate import Accelerator
from strands import Agent, tool
from strands.models.openai import OpenAIModel
from training.tiny import ambiguous_tokenizer, call_text, tiny_model, tiny_tokenizer
from training.training_worlds import CELLS, handler, recipe
from training.vllm_server import VLLM

from aws_rft_sdk import RFTContext, wrap_model
from aws_rft_sdk.adapters.openai import runtime_client_args
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime import LocalRuntime
from aws_rft_sdk.training.rows import rows_of
from aws_rft_sdk.training.run import train
from aws_rft_sdk.training.vllm import VLLMPolicy, weight_sender

TOKENIZER = ambiguous_tokenizer()


def decode(tokens: list[int]) -> str:
    return TOKENIZER.decode(tokens, skip_special_tokens=False)


def calculates(prompt: str) -> str:
    """Call the tool twice, then answer. Arguments are written as no template writes them."""
    results = prompt.count("<tool_response>")
    call = call_text("add", a=results, b=2).replace(": ", " :")
    return f"we add again{call}" if results < 2 else "the answer is four"


@pytest.fixture(scope="module")
def _served():
    server = VLLM(encode=lambda text: TOKENIZER(text, add_special_tokens=False)["input_ids"], decode=decode)
    stop = server.start()
    yield server
    stop()


@pytest.fixture
def vllm(_served):
    _served.says, _served.draws = calculates, None
    _served.samples.clear()
    _served.statuses.clear()
    return _served


@pytest.fixture
def runtime(vllm):
    policy = VLLMPolicy(vllm.url, TOKENIZER, max_tokens=300, max_context_tokens=vllm.max_model_len)
    with LocalRuntime(policy, auth="none") as runtime:
        yield runtime


@tool
def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: One.
        b: The other.
    """
    return a + b


def play(runtime: LocalRuntime, stream: bool = True):
    """Run a real agent, and return its trajectory and its answer."""
    payload = runtime.new_rollout("p")
    with RFTContext.bind(payload):
        params = {"temperature": 0.75, "top_p": 0.5}
        model = OpenAIModel(client_args=runtime_client_args(), model_id="default", stream=stream, params=params)
        answer = str(Agent(model=wrap_model(model), tools=[add], callback_handler=None)("what is it?")).strip()
    return runtime.trajectory(payload["metadata"]["rolloutId"]), answer


def ask(runtime: LocalRuntime, **fields: object):
    payload = runtime.new_rollout("p")
    metadata = payload["metadata"]
    headers = {"X-Rft-Job-Arn": metadata["jobArn"], "X-Trajectory-Id": metadata["rolloutId"]}
    base_url = f"{metadata['endpoint']}/v1"
    with openai.OpenAI(base_url=base_url, api_key="x", max_retries=0, default_headers=headers) as client:
        messages = [{"role": "user", "content": "x"}]
        return client.chat.completions.create(model="m", messages=messages, **fields)  # type: ignore[call-overload]


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_agent_when_the_tokenizer_is_ambiguous_then_there_is_one_row_of_what_vllm_sampled(
    vllm, runtime, stream
) -> None:
    trajectory, answer = play(runtime, stream)
    assert answer == "the answer is four"
    first, second, third = vllm.samples
    again = [vllm.encode(decode(sample.prompt + sample.tokens)) for sample in (first, second)]
    assert again != [sample.prompt + sample.tokens for sample in (first, second)]  # the tokenizer is ambiguous indeed
    assert second.prompt[: len(first.prompt + first.tokens)] == first.prompt + first.tokens
    (row,) = rows_of(trajectory)
    assert row.ids == tuple(third.prompt + third.tokens)
    sampled = [value for value, is_sampled in zip(row.logprobs, row.mask, strict=True) if is_sampled]
    assert sampled == [*first.logprobs, *second.logprobs, *third.logprobs]


def test_agents_when_many_play_at_once_then_each_has_one_row_and_seeds_of_its_own(vllm, runtime) -> None:
    with ThreadPoolExecutor(8) as pool:
        played = list(pool.map(lambda _: play(runtime), range(8)))
    assert all(len(rows_of(trajectory)) == 1 for trajectory, _ in played)
    assert len({sample.request["seed"] for sample in vllm.samples}) == 8 * 3


def test_request_when_it_is_sent_then_it_says_all_that_changes_the_distribution(vllm, runtime) -> None:
    play(runtime)
    request = vllm.samples[0].request
    expected = {"temperature": 0.75, "top_p": 0.5, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
    assert request == {**request, **expected, "max_tokens": 300, "logprobs": 0, "return_token_ids": True}
    assert request["stop_token_ids"] == [TOKENIZER.eos_token_id]
    assert "model" not in request


def test_request_when_it_has_stops_or_a_limit_then_vllm_keeps_them(vllm, runtime) -> None:
    vllm.says = lambda prompt: "one two three"
    stopped = ask(runtime, stop=[" three"]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ("one two", "stop")
    cut = ask(runtime, max_tokens=2, temperature=0).choices[0]
    assert (cut.message.content, cut.finish_reason) == (decode(vllm.samples[-1].tokens), "length")
    assert len(vllm.samples[-1].tokens) == 2


@pytest.mark.parametrize(
    ("statuses", "max_tokens", "status", "text", "sampled"),
    [
        ([500], 10, 500, "vLLM answered 500: EngineCore encountered an issue", 1),
        ([503], 10, 503, "vLLM answered 503", 1),
        ([], 10_000, 400, "maximum context length is 4096 tokens", 0),
    ],
    ids=["fails", "unavailable", "too-long"],
)
def test_vllm_when_it_refuses_then_the_call_says_so_and_is_not_repeated(
    vllm, statuses, max_tokens, status, text, sampled
) -> None:
    vllm.statuses.extend(statuses)
    with LocalRuntime(VLLMPolicy(vllm.url, TOKENIZER, max_tokens=max_tokens), auth="none") as runtime:
        with pytest.raises(openai.APIStatusError, match=text) as raised:
            ask(runtime)
        assert raised.value.status_code == status
        assert len(vllm.samples) == sampled
        assert all(trajectory.turns == () for trajectory in runtime.trajectories())


def test_vllm_when_it_cannot_be_reached_then_the_call_may_be_repeated() -> None:
    with LocalRuntime(VLLMPolicy("http://127.0.0.1:1/v1", TOKENIZER), auth="none") as runtime:
        with pytest.raises(openai.APIStatusError, match="cannot be reached") as raised:
            ask(runtime)
        assert raised.value.status_code == 503


def test_round_when_it_begins_then_the_weights_are_sent_and_seeds_are_new(vllm) -> None:
    sent: list[int] = []
    policy = VLLMPolicy(vllm.url, TOKENIZER, send_weights=lambda: sent.append(len(vllm.samples)))
    with LocalRuntime(policy, auth="none") as runtime:
        for name in ("one", "two"):
            policy.new_round(name)
            ask(runtime)
    assert sent == [0, 1]  # before anything of the round is sampled
    assert len({sample.request["seed"] for sample in vllm.samples}) == 2


@pytest.mark.parametrize("sends", [True, False], ids=["sent", "kept"])
def test_training_when_vllm_samples_then_the_updates_are_those_of_its_weights(vllm, tmp_path, sends) -> None:
    """vLLM samples with a copy of the model. If the weights are sent, it is as far as the model in each step."""
    tokenizer = tiny_tokenizer()
    model, copy = tiny_model(tokenizer), tiny_model(tokenizer)

    def draws(prompt: list[int], request: dict[str, Any]) -> tuple[list[int], list[float]]:
        generator, tokens, logprobs = torch.Generator().manual_seed(request["seed"]), list[int](), list[float]()
        while len(tokens) < request["max_tokens"] and tokens[-1:] != [tokenizer.eos_token_id]:
            with torch.no_grad():
                of_tokens = copy(torch.tensor([prompt + tokens])).logits[0, -1].log_softmax(-1)
            tokens.append(int(torch.multinomial(of_tokens.exp(), 1, generator=generator)))
            logprobs.append(float(of_tokens[tokens[-1]]))
        return tokens, logprobs

    def send() -> None:
        if sends:
            copy.load_state_dict(model.state_dict())

    vllm.draws = draws
    policy = VLLMPolicy(vllm.url, tokenizer, send_weights=send)
    run = train(handler, CELLS, recipe(max_steps=3), policy=policy, model=model, tokenizer=tokenizer, out=tmp_path)
    clipped = [step.other["clip_ratio/region_mean"] for step in run.steps]
    assert clipped[0] == 0.0
    assert (max(clipped) == 0.0) is sends
    assert run.rows == run.rollouts == 3 * 8 == len(vllm.samples)


def test_training_when_vllm_cannot_take_weights_then_it_ends_before_the_first_rollout(vllm, tmp_path) -> None:
    model = tiny_model(TOKENIZER)
    policy = f"upstream:{vllm.url}"
    with pytest.raises(ConfigurationError, match=r"TRL needs it to send weights|cannot take weights"):
        train(handler, CELLS, recipe(), policy=policy, model=model, tokenizer=TOKENIZER, out=tmp_path)
    assert vllm.samples == []
    with pytest.raises(ConfigurationError, match="must be an http or https URL"):
        train(handler, CELLS, recipe(), policy="upstream:vllm:8000", model=model, tokenizer=TOKENIZER, out=tmp_path)


def test_weights_when_vllm_is_not_installed_here_then_it_says_what_to_install(vllm) -> None:
    if importlib.util.find_spec("vllm") is not None:
        pytest.skip("vllm is installed")
    with pytest.raises(ConfigurationError, match=r"pip install 'trl\[vllm\]'"):
        weight_sender(vllm.url, tiny_model(tiny_tokenizer()), TOKENIZER, Accelerator(cpu=True))


def test_vllm_when_the_settings_are_wrong_then_they_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="base_url must be an http or https URL"):
        VLLMPolicy("vllm:8000", TOKENIZER)
    with pytest.raises(ConfigurationError, match="max_tokens is 0"):
        VLLMPolicy("http://vllm/v1", TOKENIZER, max_tokens=0)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"token_ids": None}, "no token_ids"),
        ({"logprobs": None}, "no token_ids, or not one log-probability"),
        ({"prompt_token_ids": [1]}, "other tokens than it was sent"),
    ],
    ids=["no-ids", "no-logprobs", "another-prompt"],
)
def test_vllm_when_its_answer_lacks_tokens_then_no_turn_is_made_of_it(vllm, runtime, changed, text) -> None:
    vllm.change = lambda answer: answer["choices"][0].update(changed)
    try:
        with pytest.raises(openai.InternalServerError, match=text):
            ask(runtime)
    finally:
        vllm.change = lambda answer: None
    assert all(trajectory.turns == () for trajectory in runtime.trajectories())
