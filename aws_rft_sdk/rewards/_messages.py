"""Conversations of other APIs in the OpenAI chat form that rewards read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
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
    """Yield messages of OpenAI, Anthropic or Bedrock (Strands) in OpenAI chat form.

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
        calls = message.get("tool_calls") or ()
        if any(isinstance(call, Mapping) and isinstance(call.get("function"), str) for call in calls):  # of Inspect
            calls = [_call(call.get("id"), call["function"], call.get("arguments")) for call in calls]
            message = {**message, "tool_calls": calls}
        content = message.get("content")
        parts = [_plain(part) for part in content] if isinstance(content, list | tuple) else []
        yield from _converted(message, [part for part in parts if isinstance(part, Mapping)]) if parts else [message]


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
        elif call := part.get("toolUse") or (part if kind == "tool_use" else None):
            calls.append(_call(call.get("toolUseId", call.get("id")), call.get("name"), call.get("input")))
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
    yield {
        **message,
        "content": content or None,
        **({"tool_calls": calls} if calls else {}),
        **({"reasoning_content": reasoning} if reasoning else {}),
    }


def _call(identity: JSON, name: JSON, arguments: JSON) -> JSON:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False, default=str)
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": text}}


def _result_text(content: JSON) -> str:
    if not isinstance(content, list | tuple):
        return "" if content is None else str(content)
    texts = [part.get("text", part.get("json")) for part in content if isinstance(part, Mapping)]
    return "".join(
        text if isinstance(text, str) else json.dumps(text, default=str) for text in texts if text is not None
    )
