"""Error answers in the form of OpenAI's API."""

from __future__ import annotations

from starlette.types import Send

from aws_rft_sdk.runtime import answers
from aws_rft_sdk.runtime.answers import Refusal

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiRefusal(Refusal):
    """A call to `/v1` is answered with an error.

    Args:
        status: HTTP status.
        message: What is wrong and what to send instead.
        param: The field that is wrong, for example `training_file`. None if no single field is.
        code: For programs, for example `model_not_found`. None for none.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(status, message)
        self.param = param
        self.api_code = code


async def send_api_refusal(send: Send, refusal: Refusal) -> None:
    """Send an error answer whose body is `{"error": {message, type, param, code}}`."""
    status = refusal.status
    error = {
        "message": refusal.message,
        "type": _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"),
        "param": refusal.param if isinstance(refusal, ApiRefusal) else None,
        "code": refusal.api_code if isinstance(refusal, ApiRefusal) else None,
    }
    headers = [] if refusal.retry_after is None else [(b"retry-after", refusal.retry_after.encode())]
    await answers.send_body(send, answers.encode({"error": error}), status=status, headers=headers)
