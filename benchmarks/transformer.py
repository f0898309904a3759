"""Does a transformer learn by agent, wire and TRL? Sums of two numbers, on the CPU, for several seeds. No download.

    python -m benchmarks.transformer --seeds 3 --json

A Llama with random weights is trained on right answers until it solves about a fifth of the sums. Then `aws_rft_sdk.training`
trains it by GRPO: a real Strands agent asks it over the local runtime, and nothing but the rewards says what is right.
Two controls get the same budget and other rewards: the same one for all rollouts, and random ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean, stdev
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from aws_rft_sdk.rewards import Rollout, evaluate, gsm8k

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


MAX_TOKENS = 8
"""A right answer has at most 4."""


@dataclass(frozen=True)
class Splits:
    """Sums for training, for choosing a learning rate, and for the report. None is the mirror of one of another split."""

    train: Sequence[Sum]
    validation: Sequence[Sum]
    test: Sequence[Sum]


def splits(numbers: int = 100, held_out: int = 500, seed: int = 0) -> Splits:
    """Split the sums of two numbers from 0 to `numbers` - 1, with `held_out` of them for validation and for test each."""
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


def conversation(a: int, b: int, with_tool: bool) -> Iterator[tuple[str, bool]]:
    """Yield the parts of a right conversation, each with whether the model says it."""
    yield f"<user>{a}+{b}<end><assistant>", False
    if with_tool:
        yield f"{CALL[0]}{CALL[1]}{a}{CALL[2]}{b}{CALL[3]}{CALL[4]}<end>", True
        yield f"<tool>{a + b}<end><assistant>", False
    yield f"{a + b}<end>", True


def pretrain(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    data: Splits,
    *,
    seed: int,
    until: float = 0.2,
    batch: int = 256,
    learning_rate: float = 3e-3,
    with_tool: bool = False,
) -> int:
    """Train on right conversations until the model gives a share of `until` of the validation answers. Return the steps."""
    random, encoded = Random(f"pretrain {seed}"), {}
    for pair in (*data.train, *data.validation):
        parts = [(tokenizer(text)["input_ids"], said) for text, said in conversation(*pair, with_tool)]
        encoded[pair] = (
            [i for ids, _ in parts for i in ids],
            [i if said else -100 for ids, said in parts for i in ids],
        )
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    for step in range(1, 5001):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1, step / 20)
        logprobs, is_answer = _answer_logprobs(model, [encoded[pair] for pair in random.choices(data.train, k=batch)])
        optimizer.zero_grad()
        (-logprobs.sum() / is_answer.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 10 == 0:
            with torch.no_grad():
                logprobs, _ = _answer_logprobs(model, [encoded[pair] for pair in data.validation])
            if logprobs.sum(1).exp().mean() >= until:
                return step
    raise RuntimeError(f"after {step} steps the model gives fewer than {until:.0%} of the answers")


def _answer_logprobs(
    model: LlamaForCausalLM, rows: Sequence[tuple[list[int], list[int]]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probability of each token that the model is to say, 0 elsewhere, and which tokens these are."""
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows])
    labels = torch.tensor([said + [-100] * (width - len(said)) for _, said in rows])[:, 1:]
    logits = model(input_ids=ids, attention_mask=(ids != 0).long()).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none")
    return -losses, labels != -100


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
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, sums: Sequence[Sum], *, draws: int = 4, seed: int = 0
) -> Accuracy:
    """Measure a model without an agent, by plain `generate`."""
    chats = [[{"role": "user", "content": f"{a}+{b}"}] for a, b in sums]
    texts = tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
    prompts = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)

    def right(**options: Any) -> list[float]:
        out = model.generate(**prompts, max_new_tokens=MAX_TOKENS, **options)[:, prompts["input_ids"].shape[1] :]
        asked = [pair for pair in sums for _ in range(len(out) // len(sums))]
        answers = tokenizer.batch_decode(out, skip_special_tokens=True)
        return [score(answer, a + b) for answer, (a, b) in zip(answers, asked, strict=True)]

    torch.manual_seed(seed)
    model.eval()
    drawn = right(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, num_return_sequences=draws)
    shares = [fmean(drawn[start : start + draws]) for start in range(0, len(drawn), draws)]
    return Accuracy(shares, fmean(right(do_sample=False)))


def score(answer: str, right: int) -> float:
    """Return 1.0 if an answer names the right number, else 0.0."""
    return evaluate(gsm8k, Rollout.of_answer(answer, right)).reward or 0.0
