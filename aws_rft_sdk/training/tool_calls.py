"""Reads the tool calls that a model writes as text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from aws_rft_sdk._frozen import JSON

_HERMES = re.compile(r"\s*<tool_call>\s*(.*?)\s*(?:</tool_call>\s*|$)", re.DOTALL)
_LLAMA_MARK = "<|python_tag|>"


def read_tool_calls(text: str, tools: Sequence[Mapping[str, Any]]) -> tuple[str, list[dict[str, JSON]]]:
    """Return the text without its tool calls, and the calls in OpenAI form without ids.

    Two forms are read: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` of Hermes, Qwen and SmolLM, and
    `{"name": ..., "parameters": {...}}` of Llama 3, if the text is nothing else. A call that is not well formed stays
    text.

    Args:
        text: What the model wrote.
        tools: The tools of the request. Without tools there are no calls.
    """
    if not tools:
        return text, []
    names = {tool.get("function", {}).get("name") for tool in tools}
    found = [(match, _read_call(match[1])) for match in _HERMES.finditer(text)]
    calls = [call for _, call in found if call is not None]
    if calls:
        for match, call in reversed(found):
            if call is not None:
                text = text[: match.start()] + text[match.end() :]
        return text, calls
    whole = _read_call(text.strip().removeprefix(_LLAMA_MARK))
    return ("", [whole]) if whole is not None and whole["function"]["name"] in names else (text, [])


def _read_call(text: str) -> dict[str, JSON] | None:
    try:
        value = json.loads(text, parse_constant=_refuse)
        arguments = value.get("arguments", value.get("parameters", {}))
        if isinstance(arguments, str):
            arguments = json.loads(arguments, parse_constant=_refuse)
        if not isinstance(value["name"], str) or not isinstance(arguments, dict):
            return None
    except (ValueError, AttributeError, KeyError, RecursionError):
        return None
    written = json.dumps(arguments, ensure_ascii=False)
    return {"type": "function", "function": {"name": value["name"], "arguments": written}}


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
