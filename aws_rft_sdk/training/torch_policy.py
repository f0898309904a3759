"""The policy that samples from a language model in this process, and what other samplers of tokens share with it."""

from __future__ import annotations

import asyncio
import functools
import json
import math
import threading
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from random import Random
from typing import Any

from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime import Call, Policy, PolicyError
from aws_rft_sdk.runtime._recent import Recent
from aws_rft_sdk.runtime.chat import read_answer
from aws_rft_sdk.training.batching import Batcher, Sampled, Sampling
from aws_rft_sdk.training.conversations import AnsweredTurn, Chat, Template, read_chat, read_message
from aws_rft_sdk.training.tool_calls import read_tool_calls

_NEUTRAL: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
}
"""Parameters that change what is sampled, and are not supported, with the values that change nothing."""


class ChatPolicy(Policy):
    """Answers chats with tokens that a subclass samples, and says which tokens it read and sampled.

    Each answer carries `prompt_token_ids`, and for each sampled token its id and its log-probability: `token_ids` and
    `logprobs`. The prompt of a later turn is the tokens of the turn before it, token for token, and newly tokenised
    text of what the chat template adds, if the request begins with exactly what was asked and answered there. Any other
    prompt is tokenised anew.

    Of a request it honours `temperature` (default 1), `top_p`, `max_tokens` or `max_completion_tokens`, `stop`,
    `tools`, `chat_template_kwargs`, and outside of trajectories `seed`. Content must be text.

    Args:
        tokenizer: Of the model, with a chat template.
        end_ids: Tokens that end an answer.
        seed: The same seed and round name give the k-th rollout of a prompt the same random numbers.
        max_tokens: How many tokens to sample at most if the request does not say.
        max_context_tokens: Limit of prompt and sampled tokens together. None for no limit.

    Raises:
        ConfigurationError: The tokenizer has no chat template, or a number is below 1.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        end_ids: frozenset[int],
        seed: int,
        max_tokens: int,
        max_context_tokens: int | None,
    ) -> None:
        if getattr(tokenizer, "chat_template", None) is None:
            raise ConfigurationError("tokenizer has no chat template. Set tokenizer.chat_template")
        _check_numbers(max_tokens=max_tokens, max_context_tokens=max_context_tokens or 1)
        self._limit = max_context_tokens
        self._max_tokens = max_tokens
        self._seed = seed
        self._tokenizer = tokenizer
        self._template = Template(tokenizer)
        self._end_ids = end_ids
        self._lock = threading.Lock()
        """Guards what follows, and the tokenizer, which one thread at a time may use."""
        self._counts: dict[str, int] = {}
        self._names: Recent[str, str] = Recent()
        self._turns: Recent[str, list[AnsweredTurn]] = Recent()
        self._round = ""

    @abstractmethod
    async def _sample(self, prompt: Sequence[int], sampling: Sampling) -> Sampled:
        """Sample a continuation of `prompt`, which holds one token or more.

        Raises:
            PolicyError: Nothing was sampled, or nobody knows what.
        """

    def new_round(self, name: str) -> None:
        """Forget conversations and what was computed for them. Call it when the weights have changed.

        Args:
            name: Names the round. The k-th rollout of a prompt draws other numbers in each round.
        """
        with self._lock:
            self._round = name
            for memory in (self._counts, self._names, self._turns):
                memory.clear()

    def begin(self, trajectory_id: str, prompt: JSON) -> None:
        """Count the rollouts of each prompt, since the k-th one of a round always draws the same numbers."""
        cell = json.dumps(prompt, sort_keys=True)
        with self._lock:
            count = self._counts[cell] = self._counts.get(cell, 0) + 1
            self._names[trajectory_id] = f"{self._seed} {self._round} {count} {cell}"

    async def answer(self, call: Call) -> Mapping[str, JSON]:
        """Return a chat completion with token ids and log-probabilities.

        Raises:
            PolicyError: 400 if the request cannot be answered, 500 if the model failed, 503 if the policy was closed.
        """
        with self._lock:
            chat = read_chat(call.request)
            turns = self._turns.setdefault(call.trajectory_id, []) if call.trajectory_id is not None else []
            prompt = self._template.prompt_ids(chat, turns)
        sampling = self._sampling(call, len(prompt))
        sampled = await self._sample(prompt, sampling)
        with self._lock:
            text, end_id, message = self._read(sampled, chat, call.request)
            completion = self._completion(call, prompt, sampled, message)
            answered = read_message(completion["choices"][0]["message"])
            turn = AnsweredTurn(
                chat._replace(messages=[*chat.messages, answered]), prompt + sampled.token_ids, text, end_id
            )
            turns.append(turn)
        return completion

    def _sampling(self, call: Call, prompt_tokens: int) -> Sampling:
        request = call.request
        for name, neutral in _NEUTRAL.items():
            if request.get(name) is not None and request[name] not in neutral:
                raise PolicyError(f"{name} is {request[name]!r:.80}. It cannot be changed here: leave it out")
        max_tokens = self._max_tokens
        for name in ("max_tokens", "max_completion_tokens"):
            if (value := request.get(name)) is not None:
                if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                    raise PolicyError(f"{name} is {value!r:.80}. It must be a whole number from 1 up")
                max_tokens = value
        if self._limit is not None:
            if prompt_tokens >= self._limit:
                # In the words of OpenAI's servers, by which agents know that the context is too long.
                raise PolicyError(
                    f"This model's maximum context length is {self._limit} tokens. However, your messages resulted in "
                    f"{prompt_tokens} tokens, and at least 1 token must be sampled. Please reduce the length of the "
                    "messages."
                )
            max_tokens = min(max_tokens, self._limit - prompt_tokens)
        temperature = _number(request, "temperature", 1.0, 0.0, math.inf)
        top_p = _number(request, "top_p", 1.0, 0.0, 1.0)
        stops = _stops(request)
        is_complete = functools.partial(self._has_stop, stops) if stops else None
        return Sampling(max_tokens, temperature, top_p, self._end_ids, is_complete, self._random(call), tuple(stops))

    def _random(self, call: Call) -> Random:
        if call.trajectory_id is None:
            return Random(call.request.get("seed"))
        name = self._names.get(call.trajectory_id, f"{self._seed} {self._round} {call.trajectory_id}")
        return Random(f"{name} {call.turn}")

    def _has_stop(self, stops: Sequence[str], sampled: Sequence[int]) -> bool:
        longest = max(len(stop.encode()) for stop in stops)
        with self._lock:
            end = self._decode(sampled[-longest - 8 :])  # a token holds one byte or more
        return any(stop in end for stop in stops)

    def _read(
        self, sampled: Sampled, chat: Chat, request: Mapping[str, Any]
    ) -> tuple[str, int | None, dict[str, JSON]]:
        """Return the sampled text, the token that ended it, and the assistant message."""
        ids = sampled.token_ids
        end_id = ids[-1] if ids[-1] in self._end_ids else None
        own = ids if end_id is None else ids[:-1]
        text = self._decode(own)
        content, calls = read_tool_calls(text, chat.tools)
        if not calls:
            content = self._decode(own, skip_special_tokens=True)
        for stop in _stops(request):
            content = content.partition(stop)[0]
        message: dict[str, JSON] = {"role": "assistant", "content": content if content or not calls else None}
        return text, end_id, {**message, "tool_calls": calls} if calls else message

    def _completion(
        self, call: Call, prompt: Sequence[int], sampled: Sampled, message: Mapping[str, JSON]
    ) -> dict[str, JSON]:
        ids, reason = sampled.token_ids, sampled.finish_reason
        tokens = self._tokenizer.convert_ids_to_tokens(ids)
        content: list[JSON] = [
            {"token": token or "", "logprob": logprob, "bytes": None, "top_logprobs": []}
            for token, logprob in zip(tokens, sampled.logprobs, strict=True)
        ]
        choice = {
            "message": message,
            "finish_reason": "tool_calls" if message.get("tool_calls") and reason == "stop" else reason,
            "token_ids": ids,
            "logprobs": {"content": content},
        }
        counts = {"prompt_tokens": len(prompt), "completion_tokens": len(ids), "total_tokens": len(prompt) + len(ids)}
        completion: dict[str, JSON] = {"choices": [choice], "prompt_token_ids": prompt, "usage": counts}
        return read_answer(completion, call.request)

    def _decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        text = self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False)
        return str(text)


class TorchPolicy(ChatPolicy):
    """Samples answers from a causal language model of transformers, for many agents at once.

    See `ChatPolicy` for what it answers and what it honours.

    Args:
        model: A causal language model, also with adapters of peft. Its mode (`train` or `eval`) is kept.
        tokenizer: Its tokenizer, with a chat template.
        seed: The same seed, weights and round name give the k-th rollout of a prompt the same random numbers.
        max_tokens: How many tokens to sample at most if the request does not say.
        max_context_tokens: Limit of prompt and sampled tokens together. None for the model's own.
        batch_size: Sequences that are sampled at once. Further ones wait.
        cache_tokens: Tokens of finished turns whose keys and values are kept in memory for the next turn.

    Raises:
        ConfigurationError: The tokenizer has no chat template, the model keeps something else than keys and values, or
            a number is below 1.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        seed: int = 0,
        max_tokens: int = 512,
        max_context_tokens: int | None = None,
        batch_size: int = 64,
        cache_tokens: int = 65_536,
    ) -> None:
        _check_model(model)
        _check_numbers(batch_size=batch_size)
        super().__init__(
            tokenizer,
            end_ids=end_ids(model, tokenizer),
            seed=seed,
            max_tokens=max_tokens,
            max_context_tokens=max_context_tokens or context_limit(model),
        )
        self._batcher = Batcher(model, batch_size=batch_size, cache_tokens=cache_tokens)
        self._calls: dict[asyncio.AbstractEventLoop, set[Future[Sampled]]] = {}

    def new_round(self, name: str) -> None:
        """Forget conversations and what was computed for them. Call it when the weights have changed.

        Args:
            name: Names the round. The k-th rollout of a prompt draws other numbers in each round.
        """
        super().new_round(name)
        self._batcher.forget()

    async def aclose(self) -> None:
        """Fail the calls of this event loop with status 503, and wait until the model is no longer in use by them."""
        for future in list(self._calls.get(asyncio.get_running_loop(), ())):
            try:
                future.set_exception(PolicyError("the policy was closed", status=503))
            except InvalidStateError:
                pass  # it has just been answered
        await asyncio.to_thread(self._batcher.release)

    async def _sample(self, prompt: Sequence[int], sampling: Sampling) -> Sampled:
        try:
            future = self._batcher.submit(prompt, sampling)
        except RuntimeError as error:
            raise PolicyError(str(error), status=500) from error
        calls = self._calls.setdefault(asyncio.get_running_loop(), set())
        calls.add(future)
        try:
            return await asyncio.wrap_future(future)
        except PolicyError:
            raise
        except Exception as error:
            raise PolicyError(f"the model failed: {type(error).__name__}: {error}", status=500) from error
        finally:
            calls.discard(future)
            if not calls:
                self._calls.pop(asyncio.get_running_loop(), None)


def _check_numbers(**numbers: int) -> None:
    for name, value in numbers.items():
        if type(value) is not int or value < 1:
            raise ConfigurationError(f"{name} is {value!r:.80}. It must be a whole number from 1 up")


def _check_model(model: PreTrainedModel) -> None:
    """Raise a ConfigurationError if the model's cache is something else than keys and values of all tokens."""
    config = model.config.get_text_config(decoder=True)
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers}
    others = {kind.__name__ for kind in kinds - {DynamicLayer, DynamicSlidingWindowLayer}}
    if getattr(config, "attention_chunk_size", None) is not None:
        others.add("chunked attention")
    if others or getattr(model, "_is_stateful", False):
        raise ConfigurationError(
            f"TorchPolicy cannot serve {type(model).__name__}, because it keeps more than keys and values "
            f"({', '.join(sorted(others)) or 'a state'}). Serve it with an engine, for example vLLM, and pass "
            "--policy upstream:URL"
        )


def _number(request: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = request.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not (low <= value <= high and value < math.inf):
        raise PolicyError(f"{name} is {value!r:.80}. It must be a number from {low:g} to {high:g}")
    return float(value)


def _stops(request: Mapping[str, Any]) -> list[str]:
    stop = request.get("stop")
    found = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(found, list) or not all(isinstance(item, str) and item for item in found):
        raise PolicyError(f"stop is {stop!r:.80}. It must be a text or a list of texts")
    return found


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the tokens that end an answer, as model and tokenizer name them."""
    found: set[int] = set()
    for holder in (getattr(model, "generation_config", None), model.config.get_text_config(), tokenizer):
        value = getattr(holder, "eos_token_id", None)
        found.update([value] if isinstance(value, int) else value or ())
    return frozenset(found)


def context_limit(model: PreTrainedModel) -> int | None:
    """Return how many tokens a model reads at most. None if it does not say."""
    limit: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return limit
