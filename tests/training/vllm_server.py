"""The routes of vLLM that answer inference, over real HTTP, with a toy tokenizer and a script in place of a model.

It follows vLLM's `entrypoints/openai`: token ids come only if the request asks for them, the ids of the prompt at the
top of a chat completion, in the choice of a completion, and in a stream in the first chunk only. Unknown fields are
passed over. A stream cuts answers into chunks of several tokens, and sends chunks without text while a tool call grows.
"""

from __future__ import annotations

import json
import math
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from aws_rft_sdk._listening import listen
from aws_rft_sdk.runtime.http_server import ServerThread

MARKERS = ("<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_PAIRS = {first + second: 300 + 26 * i + j for i, first in enumerate(_LETTERS) for j, second in enumerate(_LETTERS)}
_TEXTS = {**dict(enumerate(MARKERS, 256)), **{token: pair for pair, token in _PAIRS.items()}}
_CALL = re.compile(r"\s*<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)


def encode(text: str) -> list[int]:
    """Return the tokens of a text: markers, pairs of small letters from the left, and bytes."""
    tokens: list[int] = []
    for part in re.split("(" + "|".join(map(re.escape, MARKERS)) + ")", text):
        if part in MARKERS:
            tokens.append(256 + MARKERS.index(part))
            continue
        for piece in re.findall("[a-z]{2}|.", part, re.DOTALL):
            tokens += [_PAIRS[piece]] if piece in _PAIRS else piece.encode()
    return tokens


def decode(tokens: list[int]) -> str:
    """Return the text of tokens. Different tokens may have the same text."""
    return b"".join(bytes([t]) if t < 256 else _TEXTS[t].encode() for t in tokens).decode("utf-8", "replace")


def render(messages: list[dict[str, Any]], tools: list[Any] | None) -> str:
    """Return the text of a chat. Arguments of tool calls are parsed and written anew, as vLLM does for templates."""
    texts = [f"<|im_start|>system\n{json.dumps(tools)}<|im_end|>\n"] if tools else []
    for message in messages:
        content = message.get("content") or ""
        if not isinstance(content, str):
            content = "".join(block["text"] for block in content)
        for call in message.get("tool_calls") or ():
            function = call["function"]
            written = json.dumps({"name": function["name"], "arguments": json.loads(function["arguments"])})
            content += f"<tool_call>\n{written}\n</tool_call>"
        texts.append(f"<|im_start|>{message['role']}\n{content}<|im_end|>\n")
    return "".join([*texts, "<|im_start|>assistant\n"])


@dataclass
class Sample:
    """What the server read and sampled for one request."""

    request: dict[str, Any]
    prompt: list[int]
    tokens: list[int]
    logprobs: list[float]
    texts: list[str]
    """Of each token."""
    finish_reason: str
    text: str
    """Of all tokens, without the one that ended it and without a stop text."""


@dataclass
class VLLM:
    """The server.

    Attributes:
        says: Gets the text of a prompt, and returns what the model says to it.
        encode: The tokenizer. At temperature 0 the model samples as it would encode.
        decode: Returns the text of tokens, markers included.
        draws: Gets the tokens of a prompt and the request, and returns tokens and log-probabilities in place of `says`.
        change: Changes the answers of `/v1/completions`, as another version or a proxy might.
        statuses: Of the next answers, instead of the true ones. The model has sampled by then.
        samples: Everything that was sampled, in order.
    """

    says: Callable[[str], str] = lambda prompt: "ok"
    encode: Callable[[str], list[int]] = encode
    decode: Callable[[list[int]], str] = decode
    draws: Callable[[list[int], dict[str, Any]], tuple[list[int], list[float]]] | None = None
    max_model_len: int = 4096
    change: Callable[[dict[str, Any]], None] = lambda answer: None
    statuses: deque[int] = field(default_factory=deque)
    samples: list[Sample] = field(default_factory=list)
    url: str = ""

    def start(self) -> Callable[[], None]:
        """Serve. Returns what stops it."""
        routes = [Route("/v1/chat/completions", self._chat, methods=["POST"])]
        routes += [Route("/v1/completions", self._complete, methods=["POST"])]

        async def nothing() -> None:
            pass

        listener = listen(0, "127.0.0.1")
        config = uvicorn.Config(Starlette(routes=routes), log_config=None, lifespan="off", ws="none")
        thread = ServerThread(config, listener, lambda loop: None, nothing)
        thread.start()
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        return thread.stop

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        if body.get("top_logprobs") is not None and not body.get("logprobs"):
            return _refusal("when using `top_logprobs`, `logprobs` must be set to true.")
        prompt = self.encode(render(body["messages"], body.get("tools")))
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or self.max_model_len - len(prompt)
        answer = self._answer(body, prompt, limit)
        if isinstance(answer, Response):
            return answer
        if body.get("stream"):
            events = [*_chunks(answer, Random(len(self.samples))), "[DONE]"]
            lines = (f"data: {event if event == '[DONE]' else json.dumps(event)}\n\n" for event in events)
            return StreamingResponse(lines, media_type="text/event-stream")
        content, calls = _parse(answer)
        message = {"role": "assistant", "content": content, "refusal": None, "reasoning": None}
        choice = {
            "index": 0,
            "message": {**message, "tool_calls": calls} if calls else message,
            "logprobs": _logprobs(answer, 0, len(answer.tokens)),
            "finish_reason": "tool_calls" if calls and answer.finish_reason == "stop" else answer.finish_reason,
            "stop_reason": None,
            "token_ids": answer.tokens if body.get("return_token_ids") else None,
        }
        prompt_ids = prompt if body.get("return_token_ids") else None
        return JSONResponse(
            {
                **_envelope("chat.completion"),
                "choices": [choice],
                "usage": _usage(answer),
                "prompt_token_ids": prompt_ids,
            }
        )

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        if isinstance(body.get("logprobs"), bool) or (body.get("logprobs") or 0) < -1:
            return _refusal("`logprobs` must be a positive value or -1.")
        prompt = body.get("prompt") or ""
        if not prompt:
            return _refusal("Either prompt or prompt_embeds must be provided and non-empty.")
        if not isinstance(prompt, str) and not all(type(token) is int and token >= 0 for token in prompt):
            return _refusal("prompt must be a text or token ids")
        prompt = self.encode(prompt) if isinstance(prompt, str) else prompt
        answer = self._answer(body, prompt, 16 if body.get("max_tokens") is None else body["max_tokens"])
        if isinstance(answer, Response):
            return answer
        logprobs = {
            "text_offset": [0] * len(answer.tokens),
            "token_logprobs": answer.logprobs,
            "tokens": answer.texts,
            "top_logprobs": [{} for _ in answer.tokens],
        }
        asked = bool(body.get("return_token_ids"))
        choice = {
            "index": 0,
            "text": answer.text,
            "logprobs": None if body.get("logprobs") is None else logprobs,
            "finish_reason": answer.finish_reason,
            "stop_reason": None,
            "token_ids": answer.tokens if asked else None,
            "prompt_logprobs": None,
            "prompt_token_ids": prompt if asked else None,
        }
        whole = {**_envelope("text_completion"), "choices": [choice], "usage": _usage(answer)}
        self.change(whole)
        return JSONResponse(whole)

    def _answer(self, body: dict[str, Any], prompt: list[int], limit: int) -> Sample | Response:
        if body.get("stream_options") and not body.get("stream"):
            return _refusal("Stream options can only be defined when `stream=True`.")
        if len(prompt) + limit > self.max_model_len:
            return _refusal(f"This model's maximum context length is {self.max_model_len} tokens.")
        sample = self._sample(body, prompt, limit)
        self.samples.append(sample)
        if self.statuses:
            return _refusal("EngineCore encountered an issue", self.statuses.popleft(), "InternalServerError")
        return sample

    def _sample(self, body: dict[str, Any], prompt: list[int], limit: int) -> Sample:
        tokens, logprobs = self.draws(prompt, body) if self.draws else self._say(body, prompt)
        reason = "stop" if len(tokens) <= limit else "length"
        tokens, logprobs = tokens[:limit], logprobs[:limit]
        texts = [self.decode([token]) for token in tokens]
        for end in range(1, len(tokens)):
            text = "".join(texts[:end])
            if stops := [stop for stop in body.get("stop") or () if stop in text]:
                cut = text.partition(stops[0])[0]
                return Sample(body, prompt, tokens[:end], logprobs[:end], texts[:end], "stop", cut)
        return Sample(body, prompt, tokens, logprobs, texts, reason, "".join(texts).removesuffix("<|im_end|>"))

    def _say(self, body: dict[str, Any], prompt: list[int]) -> tuple[list[int], list[float]]:
        """Sample what the script says. At temperature 0 as `encode` would, else half of the pairs as two letters."""
        temperature = 1.0 if body.get("temperature") is None else body["temperature"]
        random = Random(body.get("seed", len(self.samples)))
        tokens, logprobs = list[int](), list[float]()
        for token in self.encode(self.says(self.decode(prompt)) + "<|im_end|>"):
            text = self.decode([token])
            choices = [[token]]
            if len(text) == 2 and temperature:
                choices.append([self.encode(letter)[0] for letter in text])
            tokens += (chosen := random.choice(choices))
            logprobs += [-math.log(len(choices)), *(0.0 for _ in chosen[1:])]
        return tokens, logprobs


def _refusal(message: str, status: int = 400, kind: str = "BadRequestError") -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": status}}, status)


def _envelope(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": "m"}


def _usage(sample: Sample) -> dict[str, int]:
    count = len(sample.prompt), len(sample.tokens)
    return {"prompt_tokens": count[0], "completion_tokens": count[1], "total_tokens": sum(count)}


def _logprobs(sample: Sample, start: int, end: int) -> dict[str, Any] | None:
    if not sample.request.get("logprobs"):
        return None
    tokens = zip(sample.texts[start:end], sample.logprobs[start:end], strict=True)
    return {"content": [{"token": t, "logprob": logprob, "bytes": None, "top_logprobs": []} for t, logprob in tokens]}


def _parse(sample: Sample) -> tuple[str | None, list[dict[str, Any]]]:
    found = [json.loads(text) for text in _CALL.findall(sample.text)] if sample.request.get("tools") else []
    calls = [
        {
            "id": f"chatcmpl-tool-{len(sample.prompt)}-{index}",
            "type": "function",
            "function": {"name": call["name"], "arguments": json.dumps(call["arguments"])},
        }
        for index, call in enumerate(found)
    ]
    return (_CALL.sub("", sample.text) or None, calls) if calls else (sample.text, [])


def _chunks(sample: Sample, random: Random) -> Iterator[dict[str, Any]]:
    """Yield the chunks of a stream."""
    envelope = _envelope("chat.completion.chunk")
    asked = bool(sample.request.get("return_token_ids"))
    first = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    yield {**envelope, "choices": [first], "prompt_token_ids": sample.prompt if asked else None}
    content, calls = _parse(sample)
    cuts = [0]
    while cuts[-1] < len(sample.tokens):
        cuts.append(min(cuts[-1] + random.randint(1, 3), len(sample.tokens)))
    shown = 0
    for start, end in pairwise(cuts):
        is_last = end == len(sample.tokens)
        text = (content or "")[: None if is_last else len("".join(sample.texts[:end]).removesuffix("<|im_end|>"))]
        delta: dict[str, Any] = {"content": text[shown:]} if len(text) > shown else {}
        shown = max(shown, len(text))
        if is_last and calls:
            delta["tool_calls"] = [{**call, "index": index} for index, call in enumerate(calls)]
        reason = (
            ("tool_calls" if calls and sample.finish_reason == "stop" else sample.finish_reason) if is_last else None
        )
        choice = {
            "index": 0,
            "delta": delta,
            "logprobs": _logprobs(sample, start, end),
            "finish_reason": reason,
            "token_ids": sample.tokens[start:end] if asked else None,
        }
        yield {**envelope, "choices": [choice]}
    if (sample.request.get("stream_options") or {}).get("include_usage"):
        yield {**envelope, "choices": [], "usage": _usage(sample)}
