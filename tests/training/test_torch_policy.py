"""What the policy records is what the model read and sampled: nothing is tokenised twice."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs: pip install -e '.[train]'")
transformers = pytest.importorskip("transformers", reason="needs: pip install -e '.[train]'")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from strands import Agent, tool  # noqa: E402
from strands.models.openai import OpenAIModel  # noqa: E402
from strands.types.exceptions import ContextWindowOverflowException  # noqa: E402
from training.tiny import CHAT_TEMPLATE, TOOL, ambiguous_tokenizer, call_text, tiny_model, tiny_tokenizer  # noqa: E402

from aws_rft_sdk import rft_handler, runtime_model  # noqa: E402
from aws_rft_sdk.errors import ConfigurationError  # noqa: E402
from aws_rft_sdk.rollout import run  # noqa: E402
from aws_rft_sdk.runtime import Call, LocalRuntime, PolicyError  # noqa: E402
from aws_rft_sdk.training.rows import rows_of  # noqa: E402
from aws_rft_sdk.training.tool_calls import read_tool_calls  # noqa: E402
from aws_rft_sdk.training.torch_policy import TorchPolicy  # noqa: E402
from aws_rft_sdk.types import Trajectory, TrajectoryStatus, Turn  # noqa: E402

USER = {"role": "user", "content": "1 and 12?"}


def ask(policy: TorchPolicy, messages: list[dict[str, Any]], trajectory: str | None = "t", turn: int = 0, **more: Any):
    request = {"messages": messages, **more}
    return asyncio.run(policy.answer(Call(request, b"", False, trajectory, turn)))


def message_of(answer: Any) -> dict[str, Any]:
    return dict(answer["choices"][0]["message"])


def ids_of(answer: Any) -> list[int]:
    return [*answer["prompt_token_ids"], *answer["choices"][0]["token_ids"]]


def anew(tokenizer: Any, messages: list[dict[str, Any]], **more: Any) -> list[int]:
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, **more)["input_ids"]


def talkative(tokenizer: Any, **biases: float) -> Any:
    """A model that likes some tokens: how much is added to the logit of each."""
    model = tiny_model(tokenizer)
    head = torch.nn.Linear(32, len(tokenizer))
    with torch.no_grad():
        head.weight.copy_(model.lm_head.weight * 3)
        head.bias.zero_()
        for text, bias in biases.items():
            head.bias[tokenizer.convert_tokens_to_ids(text)] = bias
    model.lm_head = head
    return model.eval()


@pytest.fixture(scope="module")
def ambiguous() -> Iterator[tuple[Any, TorchPolicy]]:
    tokenizer = ambiguous_tokenizer()
    policy = TorchPolicy(talkative(tokenizer, **{"<|im_end|>": 2.0, "a": 4.0, "b": 4.0, "ab": 4.0}), tokenizer)
    yield tokenizer, policy
    asyncio.run(policy.aclose())


names = itertools.count()
texts = st.text(alphabet="ab12 <|im_end|>\n", max_size=8)
roles = st.sampled_from(["user", "system", "tool"])


@settings(max_examples=60, deadline=None)
@given(turns=st.lists(st.tuples(texts, roles, st.integers(1, 6), st.booleans()), min_size=2, max_size=4))
def test_prompt_when_a_chat_goes_on_then_it_begins_with_what_was_read_and_sampled(
    ambiguous: tuple[Any, TorchPolicy], turns: list[tuple[str, str, int, bool]]
) -> None:
    _, policy = ambiguous
    name, messages, recorded = f"p{next(names)}", [], []
    for index, (text, role, max_tokens, in_blocks) in enumerate(turns):
        messages = [*messages, {"role": role if messages else "user", "content": text}]
        sent = json.loads(json.dumps(messages))
        for message in sent if in_blocks else ():
            message["content"] = [{"type": "text", "text": message["content"]}]
        answer = ask(policy, sent, name, index, max_tokens=max_tokens)
        choice = answer["choices"][0]
        assert len(choice["token_ids"]) == len(choice["logprobs"]["content"]) >= 1
        if recorded:
            before = ids_of(recorded[-1])
            assert answer["prompt_token_ids"][: len(before)] == before
        recorded.append(answer)
        messages = [*messages, {"role": "assistant", "content": choice["message"]["content"]}]
    made = tuple(
        Turn(n, None, None, a, 0.0, 0.0, None, tuple(a["choices"][0]["token_ids"]),
             tuple(item["logprob"] for item in a["choices"][0]["logprobs"]["content"]), tuple(a["prompt_token_ids"]))
        for n, a in enumerate(recorded)
    )  # fmt: skip
    rows = rows_of(Trajectory(name, "job", TrajectoryStatus.REWARD_RECEIVED, turns=made))
    assert len(rows) == 1
    assert list(rows[0].ids) == ids_of(recorded[-1])


def test_ambiguous_tokenizer_when_ids_are_decoded_and_encoded_then_they_often_differ(
    ambiguous: tuple[Any, TorchPolicy],
) -> None:
    """Without this the property above would show nothing."""
    tokenizer, policy = ambiguous
    sampled = [ask(policy, [USER], None, seed=n, max_tokens=12)["choices"][0]["token_ids"] for n in range(20)]
    assert sum(tokenizer(tokenizer.decode(ids))["input_ids"] != ids for ids in sampled) > 8


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.7, "top_p": 0.9}], ids=["as it is", "cooler and cut"])
def test_rollouts_when_agents_call_tools_then_recorded_logprobs_are_those_of_one_forward_pass(
    sampling: dict[str, float],
) -> None:
    tokenizer = ambiguous_tokenizer()
    called = call_text("calculator", a=1)
    tokenizer.add_tokens([called])
    model = talkative(tokenizer, **{called: 5.0, "<|im_end|>": 5.5, "a": 3.0, "ab": 3.0})

    @tool
    def calculator(a: int) -> int:
        """Add.

        Args:
            a: A number.
        """
        return a + 1

    @rft_handler
    async def handler(payload: dict[str, Any]) -> float:
        agent = Agent(model=runtime_model(), tools=[calculator], callback_handler=None, system_prompt="Add ab.")
        helper = Agent(model=runtime_model(), callback_handler=None, system_prompt="Help.")
        await asyncio.gather(agent.invoke_async(str(payload["prompt"])), helper.invoke_async("12?"))
        await agent.invoke_async("again")
        return 1.0

    with LocalRuntime(TorchPolicy(model, tokenizer)) as runtime:
        options = {"max_tokens": 60, "temperature": 1.0, "top_p": 1.0, **sampling}
        result = run(handler, ["1 + 1?", "ab"], endpoint=runtime.endpoint, group_size=4, discard=True, **options)
        trajectories = list(runtime.trajectories())
    assert any("tool_calls" in turn.message for t in trajectories for turn in t.turns), result.records
    assert any(0 in row.mask for t in trajectories for row in rows_of(t))  # results of tools between sampled tokens
    for trajectory in trajectories:
        rows = rows_of(trajectory)
        # Two: the agent's and its helper's. Strands drops an empty answer, and then the history is another one.
        assert len(rows) <= 2 or any(len(turn.token_ids or ()) == 1 for turn in trajectory.turns)
        for row in rows:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([row.ids])).logits[0, len(row.prompt_ids) - 1 : -1]
            logits = logits / options["temperature"]
            probabilities, order = torch.softmax(logits, dim=-1).sort(dim=-1, descending=True)
            out = probabilities.cumsum(-1) - probabilities >= options["top_p"]
            logits = logits.masked_fill(torch.zeros_like(out).scatter(-1, order, out), -torch.inf)
            logprobs = torch.log_softmax(logits, dim=-1)
            for values, token, recorded, mine in zip(logprobs, row.completion_ids, row.logprobs, row.mask, strict=True):
                assert not mine or values[token].item() == pytest.approx(recorded, abs=1e-4)


def test_prompt_when_it_forks_or_the_history_changed_then_each_is_right() -> None:
    tokenizer = ambiguous_tokenizer()
    policy = TorchPolicy(talkative(tokenizer, **{"<|im_end|>": 3.0}), tokenizer, max_tokens=8)
    first = ask(policy, [USER])
    history = [USER, message_of(first)]
    for text in ("ab", "12"):  # a fork: both go on
        forked = ask(policy, [*history, {"role": "user", "content": text}], turn=1)
        assert forked["prompt_token_ids"][: len(ids_of(first))] == ids_of(first)
    others: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
        "changed answer": ([USER, {"role": "assistant", "content": "12"}, USER], {}),
        "changed question": ([{**USER, "content": "ab"}, message_of(first), USER], {}),
        "another system prompt": ([{"role": "system", "content": "ab"}, USER], {}),
        "tools": ([*history, USER], {"tools": [TOOL]}),
    }
    for messages, more in others.values():
        expected = anew(tokenizer, [{"content": "", **m} for m in messages], **more)
        assert ask(policy, messages, turn=1, **more)["prompt_token_ids"] == expected
    assert ask(policy, [*history, USER], "another trajectory")["prompt_token_ids"] == anew(tokenizer, [*history, USER])
    policy.new_round("1")
    assert ask(policy, [*history, USER])["prompt_token_ids"] == anew(tokenizer, [*history, USER])
    asyncio.run(policy.aclose())


def test_prompt_when_the_template_drops_old_thoughts_then_it_is_tokenised_anew() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<think>hm</think>"])
    shown = "(message.content or '')"
    dropped = "(message.content.split('</think>')[-1] if not loop.last else message.content)"
    assert shown in CHAT_TEMPLATE
    tokenizer.chat_template = CHAT_TEMPLATE.replace(shown, dropped)
    policy = TorchPolicy(talkative(tokenizer, **{"<think>hm</think>": 30.0}), tokenizer, max_tokens=2)
    first = ask(policy, [USER])
    messages = [USER, message_of(first), USER]
    assert message_of(first)["content"] == "<think>hm</think>" * 2
    assert ask(policy, messages, turn=1)["prompt_token_ids"] == anew(tokenizer, messages)
    asyncio.run(policy.aclose())


@pytest.mark.parametrize("cut_off", [False, True], ids=["ended", "cut off"])
def test_prompt_when_text_encodes_in_one_way_then_it_is_what_the_template_renders(cut_off: bool) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    policy = TorchPolicy(talkative(tokenizer, **{"<|im_end|>": -30.0 if cut_off else 30.0}), tokenizer, max_tokens=5)
    first = ask(policy, [USER], seed=1)
    assert first["choices"][0]["finish_reason"] == ("length" if cut_off else "stop")
    later = {"role": "user", "content": "<|im_end|>ab é"}
    found = ask(policy, [USER, message_of(first), later], turn=1)["prompt_token_ids"]
    text = tokenizer.decode(first["choices"][0]["token_ids"]).removesuffix("<|im_end|>")
    rendered = tokenizer.apply_chat_template(
        [USER, {"role": "assistant", "content": text}, later], add_generation_prompt=True, tokenize=False
    )
    assert tokenizer.decode(found) == rendered
    assert found[len(ids_of(first)) :] == anew(tokenizer, [USER, {"role": "assistant", "content": ""}, later])[
        len(anew(tokenizer, [USER])) + (not cut_off) :
    ]  # fmt: skip
    asyncio.run(policy.aclose())


def test_rollouts_when_the_seed_is_the_same_then_the_kth_of_a_prompt_says_the_same_in_any_order() -> None:
    tokenizer = tiny_tokenizer()
    said: list[dict[str, list[int]]] = []
    for order in ("abc", "cba"):
        policy = TorchPolicy(tiny_model(tokenizer), tokenizer, seed=3, max_tokens=8)
        for name in order:
            policy.begin(name, name)
        asked = [Call({"messages": [USER], "seed": 5}, b"", False, name, 0) for name in order]

        async def all_at_once(policy: TorchPolicy = policy, asked: list[Call] = asked) -> list[Any]:
            return await asyncio.gather(*(policy.answer(call) for call in asked))

        answers = asyncio.run(all_at_once())
        said.append({name: a["choices"][0]["token_ids"] for name, a in zip(order, answers, strict=True)})
        policy.new_round("next")
        policy.begin("a", "a")
        assert ask(policy, [USER], "a")["choices"][0]["token_ids"] != said[0]["a"]
        asyncio.run(policy.aclose())
    assert said[0] == said[1]
    assert len(set(map(tuple, said[0].values()))) == 3  # the request's seed, the same for all, counts for nothing here


def test_request_when_it_cannot_be_answered_then_400_says_what_to_change() -> None:
    tokenizer = tiny_tokenizer()
    policy = TorchPolicy(tiny_model(tokenizer), tokenizer, max_context_tokens=64)
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}
    for request, text in (
        ({"messages": [image]}, "'image_url'.*text only"),
        ({"messages": [USER], "n": 2}, "n is 2"),
        ({"messages": [USER], "top_k": 5}, "top_k is 5"),
        ({"messages": [USER], "max_tokens": 0}, "max_tokens is 0"),
        ({"messages": [USER], "temperature": -1}, "temperature is -1"),
        ({"messages": [USER], "top_p": 1.5}, "top_p is 1.5"),
        ({"messages": [USER], "stop": 3}, "stop is 3"),
        ({"messages": [{**USER, "content": "a" * 100}]}, "maximum context length is 64 tokens"),
    ):
        with pytest.raises(PolicyError, match=text) as refused:
            ask(policy, **request)
        assert refused.value.status == 400
    cut = ask(policy, [USER], max_completion_tokens=10**6, temperature=0)
    assert len(ids_of(cut)) <= 64
    asyncio.run(policy.aclose())
    with LocalRuntime(policy, strict=False) as runtime:
        model = OpenAIModel(client_args={"base_url": runtime.endpoint + "/v1", "api_key": "k"}, model_id="m")
        with pytest.raises(ContextWindowOverflowException):
            asyncio.run(_only_ask(Agent(model=model, callback_handler=None), "a" * 100))


async def _only_ask(agent: Agent, text: str) -> None:
    async for _ in agent.model.stream([{"role": "user", "content": [{"text": text}]}]):
        pass


def test_answer_when_it_says_a_stop_text_or_any_end_token_then_it_ends_there() -> None:
    tokenizer = tiny_tokenizer()
    model = talkative(tokenizer, a=30.0)
    model.generation_config.eos_token_id = [tokenizer.convert_tokens_to_ids("b"), tokenizer.eos_token_id]
    policy = TorchPolicy(model, tokenizer, max_tokens=9)
    stopped = ask(policy, [USER], stop=["aaa", "zz"])["choices"][0]
    assert (stopped["message"]["content"], stopped["finish_reason"], len(stopped["token_ids"])) == ("", "stop", 3)
    with torch.no_grad():
        model.lm_head.bias[tokenizer.convert_tokens_to_ids("b")] = 90.0
    ended = ask(policy, [USER])["choices"][0]
    assert (ended["message"]["content"], ended["finish_reason"], len(ended["token_ids"])) == ("", "stop", 1)
    asyncio.run(policy.aclose())


def test_aclose_when_calls_are_in_flight_then_they_fail_and_the_policy_can_be_used_again() -> None:
    tokenizer = tiny_tokenizer()
    model = talkative(tokenizer, **{"<|im_end|>": -90.0}).train()
    policy = TorchPolicy(model, tokenizer)

    async def close_in_flight() -> None:
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()
        hook = model.register_forward_pre_hook(lambda *_: loop.call_soon_threadsafe(begun.set) and None)
        request = {"messages": [USER], "max_tokens": 1900}
        calls = [asyncio.ensure_future(policy.answer(Call(request, b"", False, None, 0))) for _ in range(3)]
        await begun.wait()
        calls[0].cancel()
        await policy.aclose()
        hook.remove()
        assert model.training
        for result in await asyncio.gather(*calls[1:], return_exceptions=True):
            assert isinstance(result, PolicyError)
            assert result.status == 503

    asyncio.run(close_in_flight())
    assert len(ask(policy, [USER], max_tokens=3)["choices"][0]["token_ids"]) == 3
    asyncio.run(policy.aclose())


@pytest.mark.parametrize("name", ["MambaConfig", "RecurrentGemmaConfig", "Qwen3NextConfig", "Llama4TextConfig"])
def test_policy_when_the_model_keeps_more_than_keys_and_values_then_it_says_what_to_use(name: str) -> None:
    small = {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "vocab_size": 300,
        "num_attention_heads": 4,
        "intermediate_size": 32,
    }
    config = getattr(transformers, name)(**small)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(ConfigurationError, match="--policy upstream:URL"):
        TorchPolicy(model, tiny_tokenizer())


CALLED = {"type": "function", "function": {"name": "calculator", "arguments": '{"a": 1}'}}


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (call_text("calculator", a=1), "", [CALLED]),
        (f"So: {call_text('calculator', a=1)}\n{call_text('calculator', a=1)}", "So:", [CALLED, CALLED]),
        ('<tool_call>{"name": "calculator", "arguments": "{\\"a\\": 1}"}', "", [CALLED]),
        ('{"name": "calculator", "parameters": {"a": 1}}', "", [CALLED]),
        ('<|python_tag|>{"name": "calculator", "parameters": {"a": 1}}', "", [CALLED]),
        ('{"name": "someone", "parameters": {"a": 1}}', None, []),
        ("<tool_call>nonsense</tool_call>", None, []),
        ('<tool_call>{"name": 3, "arguments": {}}</tool_call>', None, []),
        ('<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>', None, []),
        ("<tool_call>" + "[" * 100_000, None, []),
        ("<tool_call>[]</tool_call>", None, []),
    ],
    ids=lambda value: repr(value)[:30] if isinstance(value, str) else "",
)
def test_read_tool_calls_when_text_has_calls_then_they_are_read_and_nothing_is_lost(
    text: str, content: str | None, calls: list[Any]
) -> None:
    assert read_tool_calls(text, [TOOL]) == (text if content is None else content, calls)
    assert read_tool_calls(text, []) == (text, [])
