"""Agents and policies for tests of the training. Import this after `pytest.importorskip("torch")`."""

from __future__ import annotations

import asyncio
import threading
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from strands import Agent
from strands.types.exceptions import MaxTokensReachedException

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.adapters.runtime_model import runtime_model
from aws_rft_sdk.handler import rft_handler
from aws_rft_sdk.runtime import Call, Policy
from aws_rft_sdk.training.recipe import Recipe

CELLS = [f"say {word}" for word in ("one", "two", "three", "four")]


def recipe(**values: Any) -> Recipe:
    """Return a recipe for a tiny model. Its learning rate is high, so that a step can be seen."""
    defaults = {"method": "full", "global_batch_size": 2, "group_size": 4, "max_steps": 2, "max_epochs": 30}
    short = {"sampling_max_tokens": 6, "learning_rate": 1e-2, "micro_batch_size": 8, "save_every": 0, "val_every": 0}
    return Recipe(**{**defaults, **short, "device": "cpu", "rollout_max_retries": 0, **values})


class OneByOne(Policy):
    """Samples one answer after the other from a model. The k-th rollout of a prompt in a round draws the same again.

    `falsify` changes the log-probabilities that are recorded.
    """

    def __init__(self, model: Any, tokenizer: Any, falsify: Callable[[float], float] = lambda logprob: logprob) -> None:
        self.model, self.tokenizer, self.falsify = model, tokenizer, falsify
        self.round, self.lock = "", threading.Lock()
        self.seen: dict[str, tuple[str, int]] = {}
        self.counts: dict[tuple[str, str], int] = {}

    def new_round(self, name: str) -> None:
        self.round = name

    def begin(self, trajectory_id: str, prompt: JSON) -> None:
        key = (self.round, str(prompt))
        self.counts[key] = self.counts.get(key, -1) + 1
        self.seen[trajectory_id] = str(prompt), self.counts[key]

    async def answer(self, call: Call) -> Mapping[str, JSON]:
        return await asyncio.to_thread(self._answer, call)

    def _answer(self, call: Call) -> Mapping[str, JSON]:
        request = call.request
        messages = [_plain(message) for message in request["messages"]]
        options = {"tools": request.get("tools"), "add_generation_prompt": True, "return_dict": False}
        ids = self.tokenizer.apply_chat_template(messages, **options)
        name = f"{self.round} {self.seen[call.trajectory_id or '']} {call.turn}"
        with self.lock, torch.no_grad():
            sampled = self.draw(call, ids, name)
            logits = self.model(torch.tensor([[*ids, *sampled]])).logits[0, len(ids) - 1 : -1]
            of_tokens = torch.log_softmax(logits / (request.get("temperature") or 1.0), -1)
        logprobs = of_tokens.gather(1, torch.tensor(sampled)[:, None])[:, 0].tolist()
        return completion(self.message(call, sampled), ids, sampled, list(map(self.falsify, logprobs)))

    def message(self, call: Call, sampled: list[int]) -> dict[str, Any]:
        """Return the message that tokens are."""
        return {"role": "assistant", "content": self.tokenizer.decode(sampled, skip_special_tokens=True)}

    def draw(self, call: Call, ids: list[int], name: str) -> list[int]:
        """Return tokens to answer with. `name` is the same whenever the draw has to be."""
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        temperature, sampled = call.request.get("temperature", 1.0), list[int]()
        while len(sampled) < call.request["max_tokens"] and sampled[-1:] != [self.tokenizer.eos_token_id]:
            logits = self.model(torch.tensor([[*ids, *sampled]])).logits[0, -1]
            probabilities = torch.softmax(logits / (temperature or 1.0), -1)
            token = torch.multinomial(probabilities, 1, generator=generator) if temperature else logits.argmax()
            sampled.append(int(token))
        return sampled


def completion(message: dict[str, Any], prompt: list[int], sampled: list[int], logprobs: list[float]) -> dict[str, Any]:
    """Return a chat completion as an engine that knows its tokens gives it."""
    return {
        "choices": [
            {
                "index": 0,
                "message": message,
                # A real engine says "length" here. Strands raises for it, and these tests are of other things.
                "finish_reason": "tool_calls" if message.get("tool_calls") else "stop",
                "token_ids": sampled,
                "logprobs": {"content": [{"token": "", "logprob": p, "top_logprobs": []} for p in logprobs]},
            }
        ],
        "prompt_token_ids": prompt,
        "usage": {"prompt_tokens": len(prompt), "completion_tokens": len(sampled), "total_tokens": len(prompt)},
    }


def model_of_agent() -> Any:
    return runtime_model()


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content") or ""
    text = content if isinstance(content, str) else "".join(part["text"] for part in content)
    return {**message, "content": text}


def reward_of(text: str) -> float:
    """Return a reward from 0 to 1 that a policy can raise: the more lower-case letters, the better."""
    return sum("a" <= letter <= "z" for letter in text) / 6


@rft_handler(on_error="failed")
async def handler(payload: dict[str, Any]) -> float:
    agent = Agent(model=model_of_agent(), callback_handler=None, tools=[])
    try:
        await agent.invoke_async(payload["prompt"])
    except MaxTokensReachedException:
        pass  # a random model hardly ever ends an answer
    return reward_of("".join(part.get("text", "") for part in agent.messages[-1]["content"]))


def same_weights(one: Any, other: Any, tolerance: float) -> bool:
    """Return whether all weights of two models differ by at most `tolerance`."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.allclose(a, b, rtol=0, atol=tolerance) for a, b in pairs)
