"""Lambda functions that run in this process, as the service runs them: JSON in, JSON out, limits of size and time."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import json
import re
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime.answers import Refusal
from aws_rft_sdk.runtime.policies import Workers

MAX_PAYLOAD_BYTES = 6 * 1024 * 1024
"""Largest event and largest reply of a synchronous invocation."""
MAX_TIMEOUT_SECONDS = 900
_CONCURRENT_INVOCATIONS = 1000  # an account's default

LambdaHandler = Callable[[Any, Any], object]
"""Gets the event and a context, and returns something that JSON can express."""

_ARN = re.compile(
    r"arn:aws[a-z-]*:lambda:(?P<region>[a-z0-9-]+):(?P<account>\d{12}):function:(?P<name>[\w-]{1,64})"
    r"(?::(?P<qualifier>\$LATEST|[\w-]+))?",
    re.ASCII,
)
_NAME = re.compile(
    r"(?:(?P<account>\d{12}):function:)?(?P<name>[\w-]{1,64})(?::(?P<qualifier>\$LATEST|[\w-]+))?", re.ASCII
)


class Invocation(NamedTuple):
    """What an invocation gave.

    Attributes:
        payload: The reply as JSON, or the error: `errorMessage`, `errorType`.
        error: "Unhandled" if the function failed, else None.
    """

    payload: bytes
    error: str | None = None


class Context:
    """The second argument of a handler, with Lambda's own names."""

    def __init__(self, name: str, arn: str, timeout_seconds: float) -> None:
        self.function_name = name
        self.function_version = "$LATEST"
        self.invoked_function_arn = arn
        self.memory_limit_in_mb = "512"
        self.aws_request_id = str(uuid.uuid4())
        self.log_group_name = f"/aws/lambda/{name}"
        self.log_stream_name = f"local/[$LATEST]{uuid.uuid4().hex}"
        self.identity = None
        self.client_context = None
        self._ends = time.monotonic() + timeout_seconds

    def get_remaining_time_in_millis(self) -> int:
        """Return the time until the invocation is ended."""
        return max(0, int((self._ends - time.monotonic()) * 1000))


def is_function_arn(value: object) -> bool:
    """Return whether a value is the ARN of a Lambda function, with or without version or alias."""
    return isinstance(value, str) and _ARN.fullmatch(value) is not None


class Functions:
    """The functions that can be invoked.

    Args:
        handlers: Handlers by name or ARN. A function under a name answers for that name in every account and region,
            a function under an ARN for that ARN only.
        timeout_seconds: How long an invocation may take. Lambda's own default is 3 s.
        region: The region in the ARN that a function under a name sees of itself.

    Raises:
        ConfigurationError: A name is no name of a function, or a handler cannot be called.

    Concurrency: call it in the server's event loop.
    """

    def __init__(self, handlers: Mapping[str, LambdaHandler], *, timeout_seconds: float, region: str) -> None:
        for name, handler in handlers.items():
            if _ARN.fullmatch(name) is None and _NAME.fullmatch(name) is None:
                raise ConfigurationError(f"functions has the key {name!r:.80}; use a Lambda function's name or ARN")
            if not callable(handler):
                raise ConfigurationError(f"functions[{name!r:.80}] must be a Lambda handler, not {handler!r:.80}")
        self._handlers = {_plain(name): handler for name, handler in handlers.items()}
        self._timeout_seconds = timeout_seconds
        self._region = region
        self._workers: Workers | None = None

    async def invoke(self, function: str, payload: bytes) -> Invocation:
        """Run a function in a thread, and wait for it as long as its timeout allows.

        A function that runs into the timeout, or whose caller is cancelled, keeps its thread. Its reply is dropped.

        Raises:
            Refusal: 404 if there is no such function, 400 if the payload is no JSON, 413 if it is larger than 6 MB.
        """
        name, arn, handler = self._find(function)
        if len(payload) > MAX_PAYLOAD_BYTES:
            text = f"Request must be smaller than {MAX_PAYLOAD_BYTES} bytes for the InvokeFunction operation"
            raise Refusal(413, text, code="RequestTooLargeException")
        context = Context(name, arn, self._timeout_seconds)
        if self._workers is None:
            self._workers = Workers(_CONCURRENT_INVOCATIONS, "aws-rft-lambda")
        # In the caller's context, so that what the handler prints goes where the caller sends prints.
        run = functools.partial(contextvars.copy_context().run, _run, handler, payload, context)
        try:
            return await asyncio.wait_for(self._workers.run(run), self._timeout_seconds)
        except asyncio.TimeoutError:
            seconds = f"Task timed out after {self._timeout_seconds:.2f} seconds"
            return _failure("Sandbox.Timedout", f"RequestId: {context.aws_request_id} Error: {seconds}")

    def close(self) -> None:
        """Let the threads end, without waiting for functions in progress."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def _find(self, function: str) -> tuple[str, str, LambdaHandler]:
        match = _ARN.fullmatch(function) or _NAME.fullmatch(function)
        if match is None:
            text = f"{function!r:.170} is neither the name nor the ARN of a Lambda function"
            raise Refusal(400, text, code="ValidationException")
        name, account = match["name"], match["account"] or "000000000000"
        arn = f"arn:aws:lambda:{match.groupdict().get('region') or self._region}:{account}:function:{name}"
        known = [_plain(function), name]
        if not function.startswith("arn:"):
            known += [arn for arn in self._handlers if arn.endswith(f":function:{name}")]
        for candidate in known:
            if candidate in self._handlers:
                return name, candidate if candidate.startswith("arn:") else arn, self._handlers[candidate]
        raise Refusal(404, f"Function not found: {arn}", code="ResourceNotFoundException")


def _plain(function: str) -> str:
    """Return a name or an ARN without its version or alias. Each function here has one version."""
    match = _ARN.fullmatch(function) or _NAME.fullmatch(function)
    return function.removesuffix(f":{match['qualifier']}") if match is not None and match["qualifier"] else function


def _run(handler: LambdaHandler, payload: bytes, context: Context) -> Invocation:
    try:
        event = json.loads(payload or b"{}")
    except (ValueError, RecursionError) as error:
        text = f"Could not parse request body into json: {error}"
        raise Refusal(400, text, code="InvalidRequestContentException") from None
    try:
        reply = handler(event, context)
    except BaseException as error:  # a handler that exits ends its sandbox, not this server
        trace = traceback.format_tb(error.__traceback__)[1:]
        return _failure(type(error).__name__, str(error), requestId=context.aws_request_id, stackTrace=trace)
    try:
        payload = json.dumps(reply).encode()
    except (TypeError, ValueError, RecursionError) as error:
        text = f"Unable to marshal response: {error}"
        return _failure("Runtime.MarshalError", text, requestId=context.aws_request_id, stackTrace=[])
    if len(payload) > MAX_PAYLOAD_BYTES:
        text = f"Response payload size ({len(payload)} bytes) exceeded maximum allowed payload size"
        return _failure("Function.ResponseSizeTooLarge", f"{text} ({MAX_PAYLOAD_BYTES} bytes).")
    return Invocation(payload)


def _failure(kind: str, message: str, **more: object) -> Invocation:
    return Invocation(json.dumps({"errorMessage": message, "errorType": kind, **more}).encode(), "Unhandled")
