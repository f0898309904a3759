"""Tokens per second of 32 concurrent Strands agents over the local runtime, and of plain batched `model.generate`.

    python benchmarks/generation.py --pairs 3

Each agent has two turns: it calls a tool, and then it answers. Plain `generate` gets the same prompts as one batch for
each turn, with padding on the left, and samples as many tokens. Both use the same model with random weights, in this
process, one after the other. The small model costs next to nothing, so it shows what agents, HTTP and records cost.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import click
import torch
from strands import Agent, tool
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from aws_rft_sdk import rft_handler, runtime_model
from aws_rft_sdk.rollout import run
from aws_rft_sdk.runtime import LocalRuntime
from aws_rft_sdk.training.torch_policy import TorchPolicy

CALL = '<tool_call>\n{"name": "look_up", "arguments": {"word": "rain"}}\n</tool_call>'
"""One token of the tokenizer, so that a model with random weights can be made to call a tool."""
TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>\n{{ call.function | tojson }}\n</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZES: dict[str, dict[str, int]] = {
    "large": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8},
    "small": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
}


class Script(dict[int, int]):
    """Lets a model draw at random, but say the token that this has for a position, so that lengths are known."""

    def __call__(self, model: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        positions = kwargs["position_ids"][:, -output.logits.shape[1] :]
        output.logits[..., list(set(self.values()))] = -100.0
        for position, token in self.items():
            output.logits[..., token] += 200.0 * (positions == position)


@tool
def look_up(word: str) -> str:
    """Look a word up in a dictionary.

    Args:
        word: The word.
    """
    return f"{word} is water that falls from clouds in drops"


@rft_handler
async def handler(payload: dict[str, Any]) -> float:
    agent = Agent(model=runtime_model(), tools=[look_up], callback_handler=None, system_prompt="Explain words.")
    await agent.invoke_async(payload["prompt"])
    return 1.0


def make_tokenizer() -> PreTrainedTokenizerFast:
    markers = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*markers, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(marker, special=True) for marker in markers])
    backend.add_tokens([AddedToken(CALL)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<|pad|>", eos_token="<|im_end|>", chat_template=TEMPLATE
    )


def with_agents(policy: TorchPolicy, agents: int, tokens: int) -> tuple[float, list[list[list[int]]], int]:
    """Return seconds, the prompts of each turn, and how many tokens were sampled."""
    prompts = [f"What does word number {number:03} mean?" for number in range(agents)]
    with LocalRuntime(policy) as runtime:
        began = time.perf_counter()
        run(handler, prompts, endpoint=runtime.endpoint, concurrency=agents, max_tokens=tokens, discard=True)
        seconds = time.perf_counter() - began
        trajectories = list(runtime.trajectories())
    turns = [
        [list(turn.prompt_token_ids or ()) for turn in each]
        for each in zip(*(t.turns for t in trajectories), strict=False)
    ]
    return seconds, turns, sum(len(turn.token_ids or ()) for t in trajectories for turn in t.turns)


def plain(model: LlamaForCausalLM, pad_id: int, turns: list[list[list[int]]], tokens: int) -> float:
    """Return tokens per second of `generate` for the same prompts."""
    began, sampled = time.perf_counter(), 0
    for prompts in turns:
        width = max(map(len, prompts))
        ids = torch.tensor([[pad_id] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        with torch.no_grad():
            out = model.generate(
                input_ids=ids, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=tokens, pad_token_id=pad_id
            )
        sampled += (out.shape[1] - width) * len(prompts)
    return sampled / (time.perf_counter() - began)


def measure(size: str, agents: int, tokens: int, pairs: int) -> None:
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=8192, eos_token_id=tokenizer.eos_token_id, **SIZES[size])).eval()
    policy = TorchPolicy(model, tokenizer)
    call, end = tokenizer.convert_tokens_to_ids(CALL), tokenizer.eos_token_id
    # All prompts of a turn have the same length, and one agent shows it. It is cut off where the script has no end.
    script = Script({-1: call, -2: end})
    model.register_forward_hook(script, with_kwargs=True)
    for last in ([call, end], [end]):
        position = len(with_agents(policy, 1, tokens)[1][-1][0]) + tokens - 1
        script.update({position - len(last) + index: token for index, token in enumerate(last)})
    ratios = []
    for number in range(pairs + 1):
        policy.new_round(str(number))
        seconds, turns, sampled = with_agents(policy, agents, tokens)
        if sampled != 2 * agents * tokens:
            raise SystemExit(f"{sampled} tokens were sampled, not {2 * agents * tokens}")
        theirs = plain(model, tokenizer.pad_token_id, turns, tokens)
        if number:  # the first pair warms up
            ratios.append(sampled / seconds / theirs)
            click.echo(f"| {size} | {number} | {sampled / seconds:,.0f} | {theirs:,.0f} | {ratios[-1]:.2f} |")
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    click.echo(f"{size} model, {parameters:.1f} million parameters: median ratio {median(ratios):.2f}")


@click.command()
@click.option("--agents", default=32, show_default=True, type=click.IntRange(1))
@click.option("--tokens", default=128, show_default=True, type=click.IntRange(3), help="Tokens of each turn.")
@click.option("--pairs", default=3, show_default=True, type=click.IntRange(1))
@click.option("--size", type=click.Choice(list(SIZES)), help="Measure this size only.")
def main(agents: int, tokens: int, pairs: int, size: str | None) -> None:
    """Measure both ways in turn, several times."""
    for name in [size] if size else SIZES:
        click.echo("| model | pair | agents, tokens/s | generate, tokens/s | ratio |\n|---|---|---|---|---|")
        measure(name, agents, tokens, pairs)


if __name__ == "__main__":
    main()
