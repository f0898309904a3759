"""How the local runtime answers: JSON, event streams, and errors that boto3 and the openai client both understand."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Iterable

from starlette.types import Send

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.wire import ERROR_CODES, ERROR_TYPE_HEADER, MESSAGE_MAX_LENGTH, REQUEST_ID_HEADER

JSON_TYPE = b"application/json"
EVENT_STREAM_TYPE = b"text/event-stream; charset=utf-8"

# Drawn once per process. Drawing each request id would cost a system call per answer.
_PROCESS_ID = str(uuid.uuid4())[:23]
_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_numbers = itertools.count(1)
_REQUEST_ID = REQUEST_ID_HEADER.encode()
_ERROR_TYPE = ERROR_TYPE_HEADER.encode()


class Refusal(Exception):
    """The runtime answers the request with an error status.

    Attributes:
        status: HTTP status of the answer.
        message: What is wrong, and with which field. Never holds a secret. Cut to 1,024 characters on the wire.
        code: The error type. By default the type of the status.
        retry_after: Value of the `Retry-After` header. None for no such header.
        body: Body of the answer and its content type. None for a body made from the message.
        headers: Further headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        retry_after: str | None = None,
        body: tuple[bytes, str] | None = None,
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code or error_code(status)
        self.retry_after = retry_after
        self.body = body
        self.headers = tuple(headers)


def error_code(status: int) -> str:
    """Return the error type of a status. A status outside of the contract's table gets the type of 400 or 500."""
    return ERROR_CODES.get(status) or ERROR_CODES[500 if status >= 500 else 400]


def encode(value: JSON) -> bytes:
    """Return `value` as compact JSON.

    Raises:
        ValueError: `value` holds NaN or an infinity, which JSON cannot express.
        TypeError: `value` holds something that is no JSON value.
    """
    return _encoder.encode(value).encode("utf-8", "replace")


def error_body(message: str, code: str) -> bytes:
    """Return an error body with `Message` for the service's clients and `error` for OpenAI's clients."""
    text = message[:MESSAGE_MAX_LENGTH]
    return encode({"Message": text, "error": {"message": text, "type": code, "code": code, "param": None}})


async def send_body(
    send: Send,
    body: bytes,
    *,
    status: int = 200,
    content_type: bytes = JSON_TYPE,
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    """Send a whole answer in one piece."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", content_type),
                (b"content-length", str(len(body)).encode()),
                (_REQUEST_ID, new_request_id()),
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def send_refusal(send: Send, refusal: Refusal) -> None:
    """Send an error answer."""
    headers = [(_ERROR_TYPE, refusal.code.encode()), *refusal.headers]
    if refusal.retry_after is not None:
        headers.append((b"retry-after", refusal.retry_after.encode("latin-1", "replace")))
    body, content_type = refusal.body or (error_body(refusal.message, refusal.code), JSON_TYPE.decode())
    await send_body(
        send, body, status=refusal.status, content_type=content_type.encode("latin-1", "replace"), headers=headers
    )


async def start_stream(send: Send, content_type: bytes = EVENT_STREAM_TYPE) -> None:
    """Begin an answer whose body is sent piece by piece."""
    headers = [(b"content-type", content_type), (b"cache-control", b"no-store"), (_REQUEST_ID, new_request_id())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def send_piece(send: Send, piece: bytes, *, last: bool = False) -> None:
    """Send the next piece of a body."""
    await send({"type": "http.response.body", "body": piece, "more_body": not last})


def new_request_id() -> bytes:
    """Return the id of one request."""
    return new_id().encode()


def new_id() -> str:
    """Return an id that no other request or answer has, in any process."""
    return f"{_PROCESS_ID}-{next(_numbers):012x}"
