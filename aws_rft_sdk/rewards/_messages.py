"""Conversations of other APIs in the OpenAI chat form that rewards read. What messages and calls look like is here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import PayloadError


def prompt_messages(prompt: JSON) -> list[JSON]:
    """Return a prompt as messages: itself when it is a list of them, else one message of the user; none for None."""
    if prompt is None:
        return []
    if isinstance(prompt, list) and prompt and all(isinstance(item, Mapping) and "role" in item for item in prompt):
        return list(prompt)
    return [{"role": "user", "content": prompt if isinstance(prompt, str) else json.dumps(prompt)}]


def chat_messages(messages: Iterable[JSON]) -> Iterator[JSON]:
    """Yield messages of OpenAI, Anthropic, Bedrock (Strands) or Inspect in OpenAI chat form.

    Tool calls become `tool_calls`, tool results become messages of the role "tool", and reasoning becomes
    `reasoning_content`, which is no text of the answer. Text parts are joined. Other messages stay as they are.

    Raises:
        PayloadError: `messages` is no list of messages with a role.
    """
    if isinstance(messages, str | Mapping) or not isinstance(messages, Iterable):
        raise PayloadError(f"messages must be a list of chat messages, not {messages!r:.80}", field="messages")
    for index, item in enumerate(messages):
        message = _plain(item)
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise PayloadError(
                f"messages[{index}] must be an object with a role, such as "
                f'{{"role": "assistant", "content": "4"}}, not {item!r:.80}',
                field=f"messages[{index}]",
            )
        if calls := objects(message.get("tool_calls")):
            message = {**message, "tool_calls": [_chat_call(call) for call in calls]}
        content = message.get("content")
        parts = objects([_plain(part) for part in content]) if isinstance(content, list | tuple) else []
        yield from _converted(message, parts) if parts else [message]


def _plain(value: Any) -> JSON:
    """Return what a client library answers with, such as openai's `ChatCompletionMessage`, as a JSON object."""
    return value.model_dump(exclude_none=True) if hasattr(value, "model_dump") else value


def _converted(message: Mapping[str, Any], parts: list[Mapping[str, Any]]) -> Iterator[JSON]:
    calls: list[JSON] = []
    rest: list[JSON] = []
    reasoning = ""
    for part in parts:
        kind = part.get("type")
        if result := part.get("toolResult") or (part if kind == "tool_result" else None):
            identity = result.get("toolUseId", result.get("tool_use_id"))
            yield {"role": "tool", "tool_call_id": identity, "content": _result_text(result.get("content"))}
        elif is_call(part):
            calls.append(_chat_call(part))
        elif "reasoningContent" in part:
            reasoning += part["reasoningContent"].get("reasoningText", {}).get("text", "")
        elif kind in ("thinking", "redacted_thinking"):
            reasoning += part.get("thinking", "")
        elif "citationsContent" in part:
            rest += [{"type": "text", **item} for item in part["citationsContent"].get("content", ())]
        elif "cachePoint" not in part:
            rest.append({"type": "text", **part} if "text" in part else part)
    if not rest and not calls and not reasoning:
        return  # only tool results, which are messages of their own
    texts = [part["text"] for part in rest if part.get("type") == "text"]
    content = "".join(texts) if len(texts) == len(rest) else rest
    extra = {"tool_calls": calls, "reasoning_content": reasoning}
    yield {**message, "content": content or None, **{key: value for key, value in extra.items() if value}}


def _result_text(content: JSON) -> str:
    if not isinstance(content, list | tuple):
        return "" if content is None else str(content)
    texts = [part.get("text", part.get("json")) for part in objects(content)]
    return "".join(_text(text) for text in texts if text is not None)


def _chat_call(call: Mapping[str, Any]) -> JSON:
    identity, name, arguments = call_fields(call)
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": _text(arguments)}}


def _text(value: JSON) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def is_call(part: Mapping[str, Any]) -> bool:
    """Say whether a part of a message, or an item of OpenAI's Responses, is a call of a tool."""
    return "toolUse" in part or part.get("type") in ("tool_use", "function_call")


def call_fields(call: Mapping[str, Any]) -> tuple[JSON, JSON, JSON]:
    """Return id, name and arguments of a call of OpenAI, Anthropic, Bedrock or Inspect. A missing field is None."""
    function = call.get("function") or call.get("toolUse")
    inner = function if isinstance(function, Mapping) else call
    name = function if isinstance(function, str) else inner.get("name")
    return call.get("id", inner.get("toolUseId")), name, inner.get("arguments", inner.get("input"))


def objects(value: object) -> list[Mapping[str, Any]]:
    """Return the objects of a list, and [] if it is none."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, Sequence) else []
