"""Sequences of a batch come out as each would alone, whoever joins and leaves in the meantime."""

from __future__ import annotations

import math
import threading
from collections import Counter
from concurrent.futures import CancelledError
from random import Random
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs: pip install -e '.[train]'")
pytest.importorskip("peft", reason="needs: pip install -e '.[train]'")

import transformers  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402

from aws_rft_sdk.training.batching import Batcher, Sampled, Sampling, draw  # noqa: E402

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50, "head_dim": 8}
DECODER = {
    **SMALL,
    "intermediate_size": 48,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "max_position_embeddings": 256,
}
SLIDING = {**DECODER, "sliding_window": 5}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaForCausalLM", DECODER),
    "Llama, eager attention": ("LlamaForCausalLM", {**DECODER, "attn_implementation": "eager"}),
    "Qwen 2": ("Qwen2ForCausalLM", DECODER),
    "Qwen 3": ("Qwen3ForCausalLM", DECODER),
    "Mistral, sliding window": ("MistralForCausalLM", SLIDING),
    "Gemma 2, every second layer slides": ("Gemma2ForCausalLM", {**SLIDING, "attn_implementation": "eager"}),
    "Gemma 3, every layer slides": ("Gemma3ForCausalLM", {**SLIDING, "layer_types": ["sliding_attention"] * 2}),
    "GPT-2, absolute positions": ("GPT2LMHeadModel", GPT2),
}
PROMPTS = [[int(x) for x in Random(n).choices(range(1, 50), k=length)] for n, length in enumerate([3, 40, 1, 17, 33])]
SHARED = [[*PROMPTS[1], *PROMPTS[3]], [*PROMPTS[1], 7], PROMPTS[1], [*PROMPTS[1][:20], 3, 4]]


def make(name: str = "Llama", **config: Any) -> Any:
    architecture, values = MODELS[name]
    cls = getattr(transformers, architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config_class, implementation = cls.config_class, values.get("attn_implementation", "sdpa")
        values = {key: value for key, value in {**values, **config}.items() if key != "attn_implementation"}
        model = cls._from_config(config_class(**values), attn_implementation=implementation)
    for parameter in model.parameters():  # else nearly all tokens are equally likely, and masks hardly matter
        parameter.data *= 4
    return model.eval()


def sampling(max_tokens: int = 12, seed: int = 0, temperature: float = 1.0, top_p: float = 1.0) -> Sampling:
    return Sampling(max_tokens, temperature, top_p, frozenset({0}), None, Random(seed))


def expected(model: Any, prompt: list[int], result: Sampled, temperature: float = 1.0) -> list[float]:
    """Log-probabilities of one plain forward pass."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *result.token_ids]])).logits[0].float()
    logprobs = torch.log_softmax(logits[len(prompt) - 1 : -1] / temperature, dim=-1)
    return [row[token].item() for row, token in zip(logprobs, result.token_ids, strict=True)]


class Counted:
    """Counts the tokens that a model computes."""

    def __init__(self, model: Any) -> None:
        self.tokens = 0
        model.register_forward_hook(self, with_kwargs=True)

    def __call__(self, model: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        self.tokens += kwargs["input_ids"].numel()


@pytest.mark.parametrize("name", MODELS)
def test_batcher_when_sequences_of_many_lengths_come_and_go_then_each_is_as_if_it_were_alone(name: str) -> None:
    model = make(name)
    batcher = Batcher(model, batch_size=3, cache_tokens=10_000)
    prompts = [*PROMPTS, *SHARED, *SHARED]  # some wait, some share their beginning, some begin with what has ended
    futures = [batcher.submit(p, sampling(4 + 5 * n % 17, n, 1.0 if n % 3 else 0.0)) for n, p in enumerate(prompts)]
    results = [future.result(60) for future in futures]
    later = [*prompts[5], *results[5].token_ids, 9, 8]
    prompts.append(later)
    results.append(batcher.submit(later, sampling(9, temperature=0)).result(60))
    for number, (prompt, result) in enumerate(zip(prompts, results, strict=True)):
        assert result.logprobs == pytest.approx(expected(model, prompt, result), abs=1e-4)
        if number % 3 == 0 and number < len(prompts) - 1:
            ids = torch.tensor([prompt])
            length = 4 + 5 * number % 17
            greedy = model.generate(ids, do_sample=False, max_new_tokens=length, eos_token_id=0, pad_token_id=0)
            assert greedy[0, len(prompt) :].tolist() == result.token_ids
    batcher.release()


@pytest.mark.parametrize("kind", ["bfloat16", "adapter", "training with checkpoints"])
def test_batcher_when_the_model_is_trained_then_it_samples_in_evaluation_mode_and_gives_the_modes_back(
    kind: str,
) -> None:
    model = make(**({"attention_dropout": 0.5} if kind.startswith("training") else {}))
    if kind == "bfloat16":
        model = model.to(torch.bfloat16)
    if kind == "adapter":
        model = get_peft_model(model, LoraConfig(r=4, lora_dropout=0.5, init_lora_weights=False))
    if kind.startswith("training"):
        model.activation_checkpointing_enable()
    model.train()
    list(model.modules())[3].eval()
    modes = [module.training for module in model.modules()]
    batcher = Batcher(model, batch_size=8, cache_tokens=1000)
    futures = [batcher.submit(prompt, sampling(10, 1)) for prompt in [*PROMPTS, PROMPTS[1]]]
    results = [future.result(60) for future in futures]
    assert [module.training for module in model.modules()] == modes
    assert results[-1].token_ids == results[1].token_ids
    model.eval()
    for prompt, result in zip(PROMPTS, results, strict=False):
        close = 0.3 if kind == "bfloat16" else 1e-4  # bfloat16 has 8 bits
        assert result.logprobs == pytest.approx(expected(model, prompt, result), abs=close)
    assert model.get_input_embeddings().weight.grad is None
    batcher.release()


def test_batcher_when_prompts_are_equal_or_continue_then_what_is_known_is_not_computed_again() -> None:
    model = make()
    counted = Counted(model)
    batcher = Batcher(model, batch_size=8, cache_tokens=1000)
    prompt = PROMPTS[1]
    group = [batcher.submit(prompt, sampling(1, n)) for n in range(8)]
    sampled = [future.result(60) for future in group]
    # Those that arrive together wait for the first one. Each then computes its last token, which tells what is next.
    assert counted.tokens <= len(prompt) + 7
    counted.tokens = 0
    later = [*prompt, *sampled[0].token_ids, 5, 6, 7]
    batcher.submit(later, sampling(1)).result(60)
    assert counted.tokens == 4

    for change in ("forgotten", "weights changed"):
        if change == "forgotten":
            batcher.forget()
        else:
            with torch.no_grad():
                model.get_input_embeddings().weight.mul_(1.5)
        counted.tokens = 0
        result = batcher.submit(later, sampling(1)).result(60)
        assert counted.tokens == len(later), change
        assert result.logprobs == pytest.approx(expected(model, later, result), abs=1e-4)
    batcher.release()


@pytest.mark.parametrize("cache_tokens", [0, 60])
def test_batcher_when_the_cache_is_full_then_the_oldest_goes_and_answers_stay_right(cache_tokens: int) -> None:
    model = make()
    batcher = Batcher(model, batch_size=2, cache_tokens=cache_tokens)
    for prompt in [*SHARED, *PROMPTS, *SHARED]:
        result = batcher.submit(prompt, sampling(5)).result(60)
        assert result.logprobs == pytest.approx(expected(model, prompt, result), abs=1e-4)
        assert sum(len(prefix.ids) for prefix in batcher._prefixes._kept) <= cache_tokens
    batcher.release()


def test_batcher_when_the_same_seed_draws_in_other_company_then_the_same_comes_out() -> None:
    batcher = Batcher(make(), batch_size=64, cache_tokens=0)
    alone = batcher.submit(PROMPTS[3], sampling(20, 5)).result(60)
    crowd = [batcher.submit(PROMPTS[n % 5], sampling(20, n)) for n in range(64)]
    together = batcher.submit(PROMPTS[3], sampling(20, 5))
    assert together.result(60).token_ids == alone.token_ids
    assert len({tuple(future.result(60).token_ids) for future in crowd}) > 32
    batcher.release()


def test_batcher_when_a_sequence_is_given_up_then_it_leaves_and_the_others_go_on() -> None:
    model = make()
    begun, go_on = threading.Event(), threading.Event()

    def wait(*_: Any) -> None:
        begun.set()
        go_on.wait(60)

    hook = model.register_forward_hook(wait)
    batcher = Batcher(model, batch_size=8, cache_tokens=1000)
    given_up = batcher.submit(PROMPTS[0], sampling(10**9))
    begun.wait(60)
    stays, waits = (batcher.submit(PROMPTS[n], sampling(6)) for n in (1, 2))
    assert given_up.cancel()
    assert waits.cancel()
    hook.remove()
    go_on.set()
    assert len(stays.result(60).token_ids) == 6
    with pytest.raises(CancelledError):
        given_up.result(60)
    batcher.release()  # returns, so the endless sequence is gone
    assert batcher._thread is None
    assert len(batcher.submit(PROMPTS[0], sampling(3)).result(60).token_ids) == 3  # and it begins again
    batcher.release()


@pytest.mark.parametrize("moment", ["joining", "decoding"])
def test_batcher_when_the_model_raises_then_the_sequences_fail_and_later_ones_do_not(moment: str) -> None:
    model = make()
    broken = threading.Event()
    broken.set()

    def fail(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if broken.is_set() and (kwargs["input_ids"].shape[1] == 1) == (moment == "decoding"):
            raise MemoryError("no memory")

    model.register_forward_pre_hook(fail, with_kwargs=True)
    batcher = Batcher(model, batch_size=8, cache_tokens=1000)
    futures = [batcher.submit(PROMPTS[n], sampling(5)) for n in (1, 3, 4)]
    for future in futures:
        with pytest.raises(MemoryError, match="no memory"):
            future.result(60)
    broken.clear()
    result = batcher.submit(PROMPTS[1], sampling(5)).result(60)
    assert result.logprobs == pytest.approx(expected(model, PROMPTS[1], result), abs=1e-4)
    batcher.release()


def test_draw_when_drawn_many_times_then_shares_are_those_of_the_distribution() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -math.inf])
    random = Random(1)
    for temperature, top_p, allowed in ((1.0, 1.0, 4), (0.5, 0.9, 2), (2.0, 0.5, 2), (1.0, 1e-9, 1)):
        one = Sampling(1, temperature, top_p, frozenset(), None, random)
        tokens, logprobs = draw(logits.expand(4000, -1), [one] * 4000)
        shares = Counter(tokens.tolist())
        kept = torch.softmax(logits[:allowed] / temperature, dim=-1)
        assert set(shares) == set(range(allowed))
        for token, share in shares.items():
            assert share / 4000 == pytest.approx(kept[token].item(), abs=0.04)
        assert torch.allclose(logprobs, kept.log()[tokens], atol=1e-5)


def test_draw_when_temperature_is_zero_then_the_likeliest_with_its_own_probability() -> None:
    greedy = Sampling(1, 0.0, 0.3, frozenset(), None, Random(0))
    warm = Sampling(1, 1.0, 1.0, frozenset(), None, Random(0))
    logits = torch.tensor([[0.0, 3.0, 1.0], [0.0, 0.0, -math.inf]])
    tokens, logprobs = draw(logits, [greedy, warm])
    assert tokens[0] == 1
    assert torch.allclose(logprobs[0], torch.log_softmax(logits[0], dim=-1)[1])
