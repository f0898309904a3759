"""How much of a turn the database keeps.

An agent sends its whole conversation with every turn, so the requests of a rollout grow with the square of its turns.
`last` stores of each request only what differs from the request before it, as a JSON array:

    [number of messages kept, names of the fields that are gone, fields that are new or changed, messages that follow]

A request is a JSON object, so both forms can be told apart. `none` stores null.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.types import Trajectory

Capture = Literal["full", "last", "none"]
CAPTURES: tuple[Capture, ...] = get_args(Capture)


class Texts(NamedTuple):
    """A chat request in pieces of JSON text. Unlike values, texts tell 1 from 1.0 and from true."""

    messages: list[str]
    fields: dict[str, str]
    """All fields but the messages."""

    @classmethod
    def of(cls, request: bytes) -> Texts:
        """Return the pieces of a request."""
        parsed = json.loads(request)
        messages = [_text(message) for message in parsed.pop("messages")]
        return cls(messages, {name: _text(value) for name, value in parsed.items()})

    def after(self, before: Texts) -> bytes:
        """Return what differs from another request."""
        pairs = zip(self.messages, before.messages, strict=False)
        kept = next((index for index, (new, old) in enumerate(pairs) if new != old), None)
        if kept is None:
            kept = min(len(self.messages), len(before.messages))
        gone = [name for name in before.fields if name not in self.fields]
        changed = [f"{_text(name)}:{text}" for name, text in self.fields.items() if before.fields.get(name) != text]
        pieces = (str(kept), _text(gone), f"{{{','.join(changed)}}}", f"[{','.join(self.messages[kept:])}]")
        return f"[{','.join(pieces)}]".encode("utf-8", "surrogatepass")


def usage_only(response: bytes) -> bytes:
    """Return an answer as `none` stores it: its token counts."""
    parsed = json.loads(response)
    usage = parsed.get("usage") if isinstance(parsed, dict) else None
    return json.dumps({} if usage is None else {"usage": usage}).encode()


def restore(requests: Iterable[bytes]) -> list[bytes]:
    """Return the whole requests of a trajectory's turns.

    Args:
        requests: As they are stored, in order. The first is whole.
    """
    whole: list[bytes] = []
    before: dict[str, JSON] | None = None
    for stored in requests:
        if not stored.startswith(b"["):
            whole.append(stored)
            before = None
            continue
        if before is None:
            before = json.loads(whole[-1])
        kept, gone, changed, following = json.loads(stored)
        fields = {name: value for name, value in before.items() if name not in gone}
        before = {**fields, **changed, "messages": [*before["messages"][:kept], *following]}
        whole.append(_text(before).encode("utf-8", "surrogatepass"))
    return whole


def check_captured(trajectory: Trajectory) -> None:
    """Refuse a trajectory whose requests and answers were not kept.

    Raises:
        ConfigurationError: It was recorded with `--capture none`.
    """
    if any(turn.request is None for turn in trajectory.turns):
        raise ConfigurationError(
            f"trajectory {trajectory.trajectory_id} was recorded with --capture none, which keeps no requests and no "
            "answers. Record the run again with --capture full or --capture last"
        )


def _text(value: JSON) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
