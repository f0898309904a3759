"""A policy with a few dozen explicit parameters, which learns from what a runtime recorded."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import PayloadError
from aws_rft_sdk.runtime import Call, Policy
from aws_rft_sdk.runtime.bedrock.trainers import TrainingStep, Update
from aws_rft_sdk.training.grpo import ratio_weight

Choose = Callable[[str, Sequence[str]], str]
"""Takes a state and the moves that are possible in it. Returns the move."""
Decide = Callable[[Mapping[str, Any], Choose], Mapping[str, JSON]]
"""Takes a chat request. Returns an assistant message. It leaves every decision to `Choose`."""
Table = dict[str, dict[str, float]]
"""A logit for each move of each state."""


class Choice(NamedTuple):
    """One decision of the policy: what a token is for a language model."""

    state: str
    move: str
    logprob: float
    """Natural log-probability of the move when it was drawn."""


class SoftmaxPolicy(Policy):
    """Draws each decision from softmax(logits of the state). It is no language model.

    `decide` turns the conversation into states, and moves into messages. The policy learns which move is right in which
    state, and nothing else. Each answer carries its decisions as `logprobs`, one token a decision, named
    `<state>:<move>`, so that a runtime records them as it records a model's tokens.

    Args:
        decide: Reads the request and writes the message. It must be the same for the same request and moves.
        table: Logits to begin with. A move that is missing has 0.
        seed: The same seed and table give the k-th rollout of a prompt the same answers to the same requests.

    Attributes:
        table: The logits. Replace it between rollouts, not during one.
    """

    def __init__(
        self, decide: Decide, table: Mapping[str, Mapping[str, float]] | None = None, *, seed: int = 0
    ) -> None:
        self.table: Table = {state: dict(moves) for state, moves in (table or {}).items()}
        self._decide = decide
        self._seed = seed
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._names: dict[str, str] = {}

    def begin(self, trajectory_id: str, prompt: JSON) -> None:
        """Count the rollouts of each prompt, since the k-th one always draws the same."""
        cell = json.dumps(prompt, sort_keys=True)
        with self._lock:
            count = self._counts[cell] = self._counts.get(cell, 0) + 1
            self._names[trajectory_id] = f"{count} {cell}"

    async def answer(self, call: Call) -> Mapping[str, JSON]:
        """Return a chat completion with its decisions as `logprobs`."""
        if call.trajectory_id is None:
            random = Random(call.request.get("seed"))
        else:
            name = self._names.get(call.trajectory_id, call.trajectory_id)
            random = Random(f"{self._seed} {name} {call.turn}")
        temperature = call.request.get("temperature", 1.0)
        message, choices = self.sample(call.request, random, 1.0 if temperature is None else float(temperature))
        content = [{"token": f"{c.state}:{c.move}", "logprob": c.logprob, "top_logprobs": []} for c in choices]
        usage = {"prompt_tokens": 0, "completion_tokens": len(choices), "total_tokens": len(choices)}
        return {"choices": [{"message": dict(message), "logprobs": {"content": content}}], "usage": usage}

    def sample(
        self, request: Mapping[str, Any], random: Random, temperature: float = 1.0
    ) -> tuple[Mapping[str, JSON], list[Choice]]:
        """Return an assistant message and the decisions that led to it, in order.

        Args:
            request: A chat request.
            random: Draws the moves.
            temperature: Divides the logits. 0 takes the likeliest move.
        """
        choices: list[Choice] = []

        def choose(state: str, moves: Sequence[str]) -> str:
            known = self.table.setdefault(state, {})
            logits = [known.setdefault(move, 0.0) for move in moves]
            probabilities = softmax(logits, temperature)
            move = random.choices(moves, probabilities)[0]
            choices.append(Choice(state, move, math.log(probabilities[list(moves).index(move)])))
            return move

        return self._decide(request, choose), choices

    @property
    def entropy(self) -> float:
        """Mean entropy of the states, in nats."""
        return math.fsum(_entropy(softmax(list(moves.values()))) for moves in self.table.values()) / max(
            1, len(self.table)
        )


def softmax(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    """Return the probabilities of the logits. At temperature 0 the likeliest has all; equal ones share it."""
    top = max(logits)
    if temperature <= 0:
        best = [1.0 if logit == top else 0.0 for logit in logits]
        return [share / math.fsum(best) for share in best]
    powers = [math.exp((logit - top) / temperature) for logit in logits]
    total = math.fsum(powers)
    return [power / total for power in powers]


def _entropy(probabilities: Iterable[float]) -> float:
    return -math.fsum(p * math.log(p) for p in probabilities if p > 0)


def read_choices(completion: JSON) -> list[Choice]:
    """Return the decisions that a chat completion of a `SoftmaxPolicy` carries, in order.

    Raises:
        PayloadError: It carries none, so another policy answered, or the runtime kept no answers.
    """
    try:
        content = completion["choices"][0]["logprobs"]["content"]
        split = [(item["token"].rpartition(":"), item["logprob"]) for item in content]
    except (KeyError, IndexError, TypeError) as error:
        raise PayloadError("the completion holds no decisions of a SoftmaxPolicy") from error
    return [Choice(state, move, logprob) for (state, _, move), logprob in split]


def update(
    table: Table,
    samples: Iterable[tuple[Sequence[Choice], float]],
    *,
    learning_rate: float,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> dict[str, float]:
    """Move the logits one step along the clipped policy gradient. Changes `table`.

    Each decision counts the same, whatever the length of its rollout (token mean, as in DAPO, arXiv 2503.14476).

    Args:
        table: The logits.
        samples: Decisions with their advantage. Each decision has the log-probability that it was drawn with.
        learning_rate: Factor of the mean gradient.
        clip_low: See `ratio_weight`.
        clip_high: See `ratio_weight`.

    Returns:
        `grad_norm`, and `clipped_share`: the share of decisions that the clipping left out.
    """
    gradient: dict[tuple[str, str], float] = {}
    count = clipped = 0
    for choices, advantage in samples:
        for state, move, logprob in choices:
            moves = table[state]
            now = dict(zip(moves, softmax(list(moves.values())), strict=True))
            weight = ratio_weight(now[move] / math.exp(logprob), advantage, clip_low, clip_high)
            count += 1
            clipped += weight == 0.0 and advantage != 0.0
            for other, probability in now.items():
                key = (state, other)
                gradient[key] = gradient.get(key, 0.0) + weight * ((other == move) - probability)
    for (state, move), value in gradient.items():
        table[state][move] += learning_rate * value / count
    norm = math.sqrt(math.fsum((value / count) ** 2 for value in gradient.values())) if count else 0.0
    return {"grad_norm": norm, "clipped_share": clipped / count if count else 0.0}


class SoftmaxTrainer:
    """Lets the jobs of a `LocalBedrock` or a `LocalJobs` learn: the trainer of a `SoftmaxPolicy`.

    Args:
        decide: See `SoftmaxPolicy`.
        table: Logits of the base model.
        learning_rate: Factor of the mean gradient. `learning_rate_multiplier` of the step multiplies it.
    """

    def __init__(
        self, decide: Decide, table: Mapping[str, Mapping[str, float]] | None = None, *, learning_rate: float = 20.0
    ) -> None:
        self._decide, self._table, self._learning_rate = decide, table, learning_rate

    def policy(self, state: bytes | None) -> SoftmaxPolicy:
        """Return the policy with the logits of a state. None is the base model."""
        return SoftmaxPolicy(self._decide, self._table if state is None else json.loads(state))

    def step(self, state: bytes | None, step: TrainingStep) -> Update:
        """Update the logits from the groups of a step, once. The state is the logits as JSON."""
        policy = self.policy(state)
        samples = [(read_choices(s.completion), s.advantage) for group in step.groups for s in group.samples]
        for choice in (choice for choices, _ in samples for choice in choices):
            policy.table.setdefault(choice.state, {}).setdefault(choice.move, 0.0)
        rate = self._learning_rate * step.hyperparameters["learning_rate_multiplier"]
        figures = update(policy.table, samples, learning_rate=rate)
        return Update(json.dumps(policy.table).encode(), {"entropy": policy.entropy, "grad_norm": figures["grad_norm"]})
