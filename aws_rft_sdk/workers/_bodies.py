"""Reads the bodies of HTTP requests within limits, and makes JSON of what handlers return."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request

from aws_rft_sdk.types import RolloutResult

READ_SECONDS = 30.0
"""For one body to arrive. A caller that is slower, or trickles on purpose, gets 408. And for a request's head."""
_LARGE_BYTES = 256 * 1024
_DISCARDED_BYTES = 64 * 1024 * 1024


class Refused(Exception):
    """A request is answered with an error.

    Args:
        status: HTTP status.
        error_type: One word for programs: "ValidationError", "AccessDenied", "Throttled", "Unavailable", ...
        message: For people.
        field: Path of the field at fault, "" for none.
        retry_after_seconds: When it is worth another try; None when it is not.
    """

    def __init__(
        self,
        status: int,
        error_type: str,
        message: str,
        *,
        field: str = "",
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type
        self.field = field
        self.retry_after_seconds = retry_after_seconds

    def body(self) -> dict[str, str]:
        """Return the answer's body."""
        return {
            "errorType": self.error_type,
            "errorMessage": str(self),
            **({"field": self.field} if self.field else {}),
        }


async def read_json(request: Request, max_bytes: int, read_seconds: float = READ_SECONDS) -> Any:
    """Return the body of a request as a JSON value. The content type is not looked at: services send several.

    Raises:
        Refused: 400 when it is no JSON, 408 when it arrives too slowly, 413 when it is too large.
    """
    try:
        body = await asyncio.wait_for(_read(request, max_bytes), read_seconds)
    except (asyncio.TimeoutError, TimeoutError):
        raise Refused(408, "ValidationError", f"the body did not arrive within {read_seconds:g} s") from None
    except ClientDisconnect:
        raise Refused(400, "ValidationError", "the caller left before the body had arrived") from None
    # Parsing a large body takes as long as hundreds of small answers; those must not wait for it.
    return _parse(body) if len(body) < _LARGE_BYTES else await asyncio.to_thread(_parse, body)


async def _read(request: Request, max_bytes: int) -> bytes:
    too_large = Refused(413, "ValidationError", f"the payload is larger than {max_bytes} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes + _DISCARDED_BYTES:
        raise too_large
    body = bytearray()
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= max_bytes:
            body += chunk
        else:
            # What is too large is read to its end, since a caller that still sends does not see an answer.
            body.clear()
            if size > max_bytes + _DISCARDED_BYTES:
                raise too_large
    if size > max_bytes:
        raise too_large
    return bytes(body)


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except RecursionError:
        problem = "it nests too deeply"
    except UnicodeDecodeError:
        problem = "it is not UTF-8"
    except ValueError as error:
        problem = f"{error}"[:200]
    raise Refused(400, "ValidationError", f"the payload is not JSON that can be read: {problem}")


def to_json(value: object) -> bytes:
    """Return what a handler returned as JSON. What JSON cannot express becomes a string, so this never fails."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain).encode()
    except (TypeError, ValueError, RecursionError):  # NaN, keys that are no strings, rings, lone surrogates
        return json.dumps(str(value)).encode()


def _plain(value: object) -> object:
    if isinstance(value, RolloutResult):
        fields = {
            "reward": value.reward,
            "rewards": None if value.rewards == (value.reward,) else value.rewards,
            "metrics": value.metrics or None,
            "state": value.state,
        }
        return {name: item for name, item in fields.items() if item is not None}
    if isinstance(value, Mapping):
        return dict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    if hasattr(value, "tolist"):
        return value.tolist()  # arrays and scalars of numpy and torch
    return str(value)
