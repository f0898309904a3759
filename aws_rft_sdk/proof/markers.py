"""Markers: what lets a request tell whose it is, whatever its headers say.

Each rollout of a proof gets a word of its own into its prompt. The model sees the prompt, so the word arrives in the
body of every inference call, and the body cannot be in the wrong rollout.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

_MARKER = re.compile(r"rft-proof-[0-9a-f]{12}")
_MAX_PLACEMENTS = 8

Placement = tuple[str | int, ...]
"""Where in a prompt cell the marker goes: the path of a string within its JSON, `()` for the end of the text."""


def new_marker() -> str:
    """Return a word that occurs nowhere else."""
    return f"rft-proof-{uuid.uuid4().hex[:12]}"


def find_markers(text: str) -> tuple[str, ...]:
    """Return the markers in a text, each once, in the order of their last occurrence."""
    found: dict[str, None] = {}
    for marker in _MARKER.findall(text):
        found.pop(marker, None)
        found[marker] = None
    return tuple(found)


def markers_of(body: bytes) -> tuple[str, ...]:
    """Return the markers of an inference call, in the order of their last occurrence: the last one is its rollout's.

    Those in what users and callers said count. Only where there are none, those in the rest of the request do: what
    tools and other agents say may quote the marker of another rollout.
    """
    text = body.decode("utf-8", "replace")
    everywhere = find_markers(text)
    if len(everywhere) < 2:
        return everywhere
    return find_markers("\n".join(_user_texts(text))) or everywhere


def _user_texts(body: str) -> Iterator[str]:
    try:
        request = json.loads(body)
    except ValueError:
        return
    if not isinstance(request, Mapping):
        return
    messages = request.get("messages", request.get("input"))
    if isinstance(messages, str):
        yield messages
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, Mapping) and message.get("role") == "user":
            yield json.dumps(message.get("content"))


def placements(cell: str) -> list[Placement]:
    """Return where a marker may go in a prompt cell, the likeliest first: the strings of its JSON, the longest first.

    A cell that is no JSON object or list has one place, its end.
    """
    content = _structure(cell)
    if content is None:
        return [()]
    leaves = sorted(_strings(content), key=lambda leaf: -len(leaf[1]))
    return [path for path, _ in leaves[:_MAX_PLACEMENTS]]


def place(cell: str, placement: Placement, marker: str) -> str:
    """Return the cell with the marker in it.

    Raises:
        LookupError: There is no string in this place.
    """
    if not placement:
        return f"{cell}\n\n({marker})"
    content: Any = json.loads(cell)
    *parents, last = placement
    target = content
    for key in parents:
        target = target[key]
    if not isinstance(target[last], str):
        raise LookupError(f"there is no string at {placement}")
    target[last] = f"{target[last]} ({marker})"
    return json.dumps(content, ensure_ascii=False)


def _structure(cell: str) -> dict[str, Any] | list[Any] | None:
    try:
        content = json.loads(cell)
    except ValueError:
        return None
    return content if isinstance(content, dict | list) and any(_strings(content)) else None


def _strings(content: object, path: Placement = ()) -> Iterator[tuple[Placement, str]]:
    if isinstance(content, str):
        yield path, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _strings(value, (*path, str(key)))
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from _strings(value, (*path, index))
