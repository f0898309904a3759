"""Does a transformer learn by agent, wire and TRL? Sums of two numbers, on the CPU, for several seeds. No download.

    python -m benchmarks.transformer --seeds 3 --json

A Llama with random weights is trained on right answers until it gives about one in six. Then `aws_rft_sdk.training`
trains it by GRPO: a real Strands agent asks it over the local runtime, and only the rewards say what is right. Two
controls have the same budget and other rewards: always 1, and by chance. The model is measured by plain `generate`,
without an agent.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from statistics import fmean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
from strands import Agent
from strands.types.exceptions import MaxTokensReachedException
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from aws_rft_sdk import rft_handler
from aws_rft_sdk.adapters.runtime_model import runtime_model
from aws_rft_sdk.datasets import Packed, pack, unpack
from aws_rft_sdk.rewards import Rollout, evaluate, gsm8k
from aws_rft_sdk.training.recipe import Recipe
from aws_rft_sdk.training.run import TrainingRun, train

Sum = tuple[int, int]

MARKERS = ("<pad>", "<user>", "<assistant>", "<tool>", "<end>")
CALL = ("<tool_call>", '{"name": "add", "arguments": {"a": ', ', "b": ', "}}", "</tool_call>")
"""What a tool call consists of, beside the numbers. One token each, so that a call is short."""
CHAT_TEMPLATE = r"""
{%- for message in messages %}
    {{- '<' + message.role + '>' + (message.content or '') }}
    {%- for call in message.tool_calls or [] %}
        {%- set call = call.function or call %}
        {{- '<tool_call>{"name": "' + call.name + '", "arguments": ' }}
        {{- call.arguments if call.arguments is string else call.arguments | tojson }}
        {{- '}</tool_call>' }}
    {%- endfor %}
    {{- '<end>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<assistant>' }}{%- endif %}
"""


RUNS = ("rewarded", "constant", "random")
MAX_TOKENS = 8
"""A right answer has at most 4."""


@dataclass(frozen=True)
class Splits:
    """Sums to train on, to choose a learning rate by, and to report. No sum is the mirror of one in another split."""

    train: Sequence[Sum]
    validation: Sequence[Sum]
    test: Sequence[Sum]


def splits(numbers: int = 100, held_out: int = 500, seed: int = 0) -> Splits:
    """Split the sums of two numbers below `numbers`. Validation and test get `held_out` sums each."""
    random = Random(f"splits {seed}")
    pairs = [(a, b) for a in range(numbers) for b in range(a + 1)]
    random.shuffle(pairs)
    drawn = [random.choice([(a, b), (b, a)]) for a, b in pairs[: 2 * held_out]]
    train = [either for a, b in pairs[2 * held_out :] for either in sorted({(a, b), (b, a)})]
    return Splits(train, drawn[:held_out], drawn[held_out:])


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of ten digits, a plus, the marks of a chat and the parts of a tool call."""
    characters = "0123456789+"
    tokens = [*MARKERS, *CALL, *characters]
    backend = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, []))
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in MARKERS])
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in CALL])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<end>",
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
    )


def make_model(tokenizer: PreTrainedTokenizerFast, *, seed: int, hidden: int = 96, layers: int = 2) -> LlamaForCausalLM:
    """Return a Llama with random weights. With the defaults it has 186,000."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


Example = Sequence[tuple[str, bool]]
"""A conversation in parts, each with whether the model is to say it."""


def sum_example(pair: Sum) -> Example:
    """Return a question and its right answer."""
    return [(f"<user>{pair[0]}+{pair[1]}<end><assistant>", False), (f"{sum(pair)}<end>", True)]


def pretrain(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    draw: Callable[[Random], Example],
    right: Sequence[Example],
    *,
    seed: int,
    until: float = 0.15,
    batch: int = 256,
    learning_rate: float = 3e-3,
) -> int:
    """Train on examples until the model says the right ones with a mean probability of `until`. Return the steps."""
    random = Random(f"pretrain {seed}")

    @cache
    def encode(text: str) -> list[int]:
        return tokenizer(text)["input_ids"]

    def logprobs_of(examples: Sequence[Example]) -> torch.Tensor:
        """Return the log-probability of each token that the model is to say, and 0 for the others."""
        parts = [[(token, said) for text, said in example for token in encode(text)] for example in examples]
        width = max(map(len, parts))
        padded = torch.tensor([[*part, *[(0, False)] * (width - len(part))] for part in parts])
        ids, said = padded[..., 0], padded[:, 1:, 1]
        logits = model(input_ids=ids, attention_mask=(ids != 0).long()).logits[:, :-1]
        return -torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none") * said

    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    for step in range(1, 3001):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1, step / 20)
        optimizer.zero_grad()
        (-logprobs_of([draw(random) for _ in range(batch)]).sum() / batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 10 == 0:
            with torch.no_grad():
                if logprobs_of(right).sum(1).exp().mean() >= until:
                    return step
    raise RuntimeError(f"after {step} steps the model still says less than {until:.0%} of what is right")


@dataclass(frozen=True)
class Accuracy:
    """How often a model is right on held-out sums."""

    shares: Sequence[float]
    """For each sum, the share of the answers that are right. The answers are drawn at temperature 1."""
    greedy: float
    """Share of the sums whose most likely answer is right."""

    @property
    def sampled(self) -> float:
        """Mean of the shares."""
        return fmean(self.shares)


def half_width(shares: Sequence[float]) -> float:
    """Return half of the 95 % interval of a mean over sums. The sums are what is drawn, not the answers."""
    return 1.96 * stdev(shares) / len(shares) ** 0.5


@torch.no_grad()
def accuracy(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    sums: Sequence[Sum],
    *,
    draws: int = 4,
    seed: int = 0,
    solve: Callable[[Sum], int] = sum,
) -> Accuracy:
    """Measure a model without an agent, by plain `generate`. `solve` gives the right answer."""
    chats = [[{"role": "user", "content": f"{a}+{b}"}] for a, b in sums]
    texts = tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
    prompts = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)

    def right(**options: Any) -> list[float]:
        out = model.generate(**prompts, max_new_tokens=MAX_TOKENS, **options)[:, prompts["input_ids"].shape[1] :]
        asked = [pair for pair in sums for _ in range(len(out) // len(sums))]
        answers = tokenizer.batch_decode(out, skip_special_tokens=True)
        return [score(answer, solve(pair)) for answer, pair in zip(answers, asked, strict=True)]

    torch.manual_seed(seed)
    model.eval()
    drawn = right(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, num_return_sequences=draws)
    shares = [fmean(drawn[start : start + draws]) for start in range(0, len(drawn), draws)]
    return Accuracy(shares, fmean(right(do_sample=False)))


def score(answer: str, right: object) -> float:
    """Return 1.0 if an answer names the right number, else 0.0."""
    return evaluate(gsm8k, Rollout.of_answer(answer, str(right))).reward or 0.0


def prompt_cell(question: str, right: int) -> str:
    """Return the dataset cell of a question."""
    return pack(question=question, ground_truth=str(right))


Reward = Callable[[str, Packed], float]
"""Judges an answer to a task."""


def honest(answer: str, task: Packed) -> float:
    """Return 1.0 for the right number, else 0.0."""
    return score(answer, task.ground_truth)


def constant(answer: str, task: Packed) -> float:
    """Return 1.0."""
    return 1.0


def by_chance(seed: int) -> Reward:
    """Return a reward that is 1.0 or 0.0 by chance.

    The same seed gives the same rewards whatever the order in which rollouts end: equal answers to a question may swap
    theirs, and such a swap changes no update.
    """
    counts: Counter[tuple[str, str]] = Counter()

    def reward(answer: str, task: Packed) -> float:
        counts[str(task), answer] += 1
        return float(Random(f"{seed} {task} {answer} {counts[str(task), answer]}").random() < 0.5)

    return reward


def make_handler(reward: Reward, tools: Sequence[Any] = ()) -> Any:
    """Return a handler whose agent answers the question of a prompt. A failed rollout gets no reward."""
    model = runtime_model()

    @rft_handler(on_error="failed")
    async def handler(payload: dict[str, Any]) -> dict[str, Any]:
        task = unpack(payload["prompt"])
        agent = Agent(model=model, tools=list(tools), callback_handler=None)
        try:
            answer = str(await agent.invoke_async(str(task))).strip()
        except MaxTokensReachedException:
            answer = ""  # the model went on and on: that is its mistake, and no failure of the rollout
        return {"answer": answer, "reward": reward(answer, task)}

    return handler


def train_by_rewards(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    cells: Sequence[str],
    handler: Any,
    out: Path,
    **recipe: Any,
) -> TrainingRun:
    """Train all weights of a model on the rewards of a handler. Only this part is under test."""
    values = {"method": "full", "device": "cpu", "save_every": 0, "sampling_max_tokens": MAX_TOKENS}
    rollouts = recipe["global_batch_size"] * recipe["group_size"]
    values |= {"micro_batch_size": rollouts, "rollout_max_concurrency": rollouts, "max_epochs": 100}
    return train(
        handler, cells, Recipe(**{**values, **recipe}), model=model, tokenizer=tokenizer, out=out, engine="local"
    )


def prove(
    seed: int,
    names: Sequence[str],
    *,
    steps: int,
    prompts: int,
    group_size: int,
    learning_rate: float,
    on_test: bool,
) -> dict[str, Any]:
    """Return the figures of one seed: it draws the first weights, the supervised examples, and all of the training."""
    data, tokenizer = splits(), make_tokenizer()
    held_out = data.test if on_test else data.validation
    model = make_model(tokenizer, seed=seed)
    began = time.monotonic()
    right = [sum_example(pair) for pair in data.validation]
    supervised = pretrain(model, tokenizer, lambda random: sum_example(random.choice(data.train)), right, seed=seed)
    before = accuracy(model, tokenizer, held_out)
    click.echo(f"seed {seed}: {supervised} supervised steps in {time.monotonic() - began:.0f} s", err=True)
    figures: dict[str, Any] = {"supervised_steps": supervised, "before": _shown(before), "runs": {}}
    cells = [prompt_cell(f"{a}+{b}", a + b) for a, b in data.train]
    rewards = {"rewarded": honest, "constant": constant, "random": by_chance(seed)}
    for name in names:
        reward = rewards[name]
        trained, began = deepcopy(model), time.monotonic()
        with TemporaryDirectory() as folder:
            recipe = {"global_batch_size": prompts, "group_size": group_size, "learning_rate": learning_rate}
            run = train_by_rewards(
                trained,
                tokenizer,
                cells,
                make_handler(reward),
                Path(folder, "run"),
                max_steps=steps,
                seed=seed,
                **recipe,
            )
        seconds = time.monotonic() - began
        after = accuracy(trained, tokenizer, held_out)
        rises = [new - old for new, old in zip(after.shares, before.shares, strict=True)]
        figures["runs"][name] = {
            **_shown(after),
            "rise": round(fmean(rises), 4),
            "rise_half_width": round(half_width(rises), 4),
            "weights_changed": not all(map(torch.equal, trained.parameters(), model.parameters())),
            "curve": _curve(run),
            "rollouts": run.rollouts,
            "failed_rollouts": run.failed_rollouts,
            "seconds": round(seconds),
        }
        click.echo(f"seed {seed} {name}: {figures['runs'][name]}", err=True)
    return figures


def _shown(found: Accuracy) -> dict[str, float]:
    width = half_width(found.shares)
    return {"sampled": round(found.sampled, 4), "half_width": round(width, 4), "greedy": round(found.greedy, 4)}


def _curve(run: TrainingRun, pieces: int = 5) -> list[float]:
    """Return the mean reward of each fifth of the training."""
    rewards = [step.reward_mean for step in run.steps if step.reward_mean is not None]
    size = -(-len(rewards) // pieces)
    return [round(fmean(rewards[start : start + size]), 3) for start in range(0, len(rewards), size)]


def table(seeds: Sequence[dict[str, Any]]) -> str:
    """Return the figures as a table of Markdown: accuracy in percent, with half of its 95 % interval."""

    def cell(found: dict[str, Any]) -> str:
        return f"{found['sampled']:.1%} ± {found['half_width']:.1%} ({found['greedy']:.1%})"

    rows = {"before": [cell(figures["before"]) for figures in seeds]}
    for name in seeds[0]["runs"]:
        rows[name] = [cell(figures["runs"][name]) for figures in seeds]
    for name in seeds[0]["runs"]:
        runs = [figures["runs"][name] for figures in seeds]
        rows[f"rise of {name}"] = [f"{run['rise']:+.1%} ± {run['rise_half_width']:.1%}" for run in runs]
    head = "| run | " + " | ".join(f"seed {number}" for number in range(len(seeds))) + " |\n"
    lines = [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    return head + "|---" * (len(seeds) + 1) + "|\n" + "\n".join(lines)


@click.command()
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="How many seeds, from 0.")
@click.option("--steps", default=150, show_default=True, type=click.IntRange(1))
@click.option("--prompts", default=8, show_default=True, type=click.IntRange(1), help="Sums of a step.")
@click.option("--group-size", default=8, show_default=True, type=click.IntRange(2), help="Rollouts of each sum.")
@click.option("--learning-rate", default=1e-4, show_default=True, type=float)
@click.option("--run", "names", default=RUNS, show_default=True, multiple=True, type=click.Choice(RUNS))
@click.option("--split", default="test", show_default=True, type=click.Choice(["test", "validation"]))
@click.option("--json", "as_json", is_flag=True, help="Print all figures instead of a table.")
def main(seeds: int, names: Sequence[str], split: str, as_json: bool, **options: Any) -> None:
    """Train once for each seed and each control. Choose values with `--split validation`."""
    found = [prove(seed, names, on_test=split == "test", **options) for seed in range(seeds)]
    click.echo(json.dumps({"seeds": found}, indent=2) if as_json else table(found))


if __name__ == "__main__":
    main()
