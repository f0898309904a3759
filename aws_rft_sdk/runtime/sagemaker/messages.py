"""A call as the services of `LocalJobs` read it, and their answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple, Protocol
from urllib.parse import parse_qsl, unquote
from xml.sax.saxutils import escape

from starlette.types import Scope

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runtime.answers import Refusal


class Asked(NamedTuple):
    """A whole call."""

    method: str
    path: str
    """Decoded."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """By lower-case names."""
    body: bytes


class Answer(NamedTuple):
    """A whole answer."""

    body: bytes = b""
    status: int = 200
    type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


class Service(Protocol):
    """One of the services behind the port."""

    def answer(self, asked: Asked) -> Answer:
        """Answer a call.

        Raises:
            Refusal: The service refuses it.
        """

    def refuse(self, refusal: Refusal) -> Answer:
        """Return a refusal in the form of the service."""


def read(scope: Scope, body: bytes) -> Asked:
    """Read a call."""
    raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
    return Asked(scope["method"], unquote(raw_path.decode("latin-1")), query, headers, body)


def json_answer(value: JSON, *, status: int = 200, content_type: str = "application/json") -> Answer:
    """Return an answer in JSON."""
    return Answer(json.dumps(value).encode(), status, content_type)


def xml(name: str, content: str | Mapping[str, JSON]) -> str:
    """Return an XML element. Names that end in `[]` stand for one element for each item of their list."""
    if isinstance(content, str):
        return f"<{name}>{escape(content)}</{name}>"
    parts = []
    for key, value in content.items():
        if key.endswith("[]"):
            parts += [xml(key[:-2], item) for item in value]
        else:
            parts.append(xml(key, value if isinstance(value, Mapping) else str(value)))
    return f"<{name}>{''.join(parts)}</{name}>"


def xml_answer(name: str, content: str | Mapping[str, JSON], *, status: int = 200) -> Answer:
    """Return an answer in XML."""
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n{xml(name, content)}'
    return Answer(text.encode(), status, "application/xml")
