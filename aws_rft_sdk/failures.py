"""Why a rollout failed: one kind for each error, whatever library raised it. Pure."""

from __future__ import annotations

import contextlib
import errno
import json
import traceback
from collections.abc import Iterator, Mapping
from enum import Enum
from types import TracebackType
from typing import Any

from aws_rft_sdk import errors
from aws_rft_sdk.wire import ERROR_TYPE_HEADER, LIMIT_ERROR_CODE

_TRACEBACK_CHARACTERS = 20_000


class RolloutStatus(str, Enum):
    """How a rollout ended."""

    COMPLETED = "completed"
    """The handler returned and its reward was delivered."""
    FAILED = "failed"
    """The handler raised; the runtime was told, with the floor reward or as a failed trajectory."""
    UNREPORTED = "unreported"
    """The runtime was not told how it ended. The service would fail the job over it."""


class FailureKind(str, Enum):
    """What made a rollout fail."""

    AGENT = "agent"
    """The handler's own code raised."""
    TOOL = "tool"
    """A tool raised, and the agent did not take that as an answer."""
    MODEL = "model"
    """The policy's answer was unusable: cut off, too long a context, a request that the policy refuses."""
    REWARD = "reward"
    """The reward function raised, or what it returned is no reward."""
    TIMEOUT = "timeout"
    """The rollout missed its deadline, or its handler waited longer than it meant to."""
    LIMIT = "limit"
    """The rollout used up its limit of turns, tokens or cost."""
    INFRASTRUCTURE = "infrastructure"
    """Something around the rollout broke: a server error, a lost connection, a dead process, a full disk."""


_OWN: dict[type[BaseException], FailureKind] = {
    errors.GivenUpError: FailureKind.INFRASTRUCTURE,
    errors.RolloutTimeoutError: FailureKind.TIMEOUT,
    errors.ServiceError: FailureKind.INFRASTRUCTURE,
    errors.UnavailableError: FailureKind.INFRASTRUCTURE,
    errors.CredentialsError: FailureKind.INFRASTRUCTURE,
    errors.OutboxError: FailureKind.INFRASTRUCTURE,
    errors.AgentUnreachableError: FailureKind.INFRASTRUCTURE,
    errors.ShuttingDownError: FailureKind.INFRASTRUCTURE,
    errors.AtCapacityError: FailureKind.INFRASTRUCTURE,
    MemoryError: FailureKind.INFRASTRUCTURE,
    KeyboardInterrupt: FailureKind.INFRASTRUCTURE,
}
# By name, so that no library is imported for it.
_NAMED: dict[tuple[str, str], FailureKind] = {
    ("asyncio", "CancelledError"): FailureKind.INFRASTRUCTURE,
    ("concurrent", "BrokenExecutor"): FailureKind.INFRASTRUCTURE,
    ("botocore", "NoCredentialsError"): FailureKind.INFRASTRUCTURE,
    ("openai", "LengthFinishReasonError"): FailureKind.MODEL,
    ("openai", "ContentFilterFinishReasonError"): FailureKind.MODEL,
    ("strands", "ModelThrottledException"): FailureKind.INFRASTRUCTURE,
    ("strands", "MaxTokensReachedException"): FailureKind.MODEL,
    ("strands", "ContextWindowOverflowException"): FailureKind.MODEL,
    ("strands", "StructuredOutputException"): FailureKind.MODEL,
    ("strands", "ToolProviderException"): FailureKind.TOOL,
    ("strands", "MCPClientInitializationError"): FailureKind.TOOL,
    ("langchain_core", "OutputParserException"): FailureKind.MODEL,
    ("langchain_core", "ToolException"): FailureKind.TOOL,
}
_MODEL_LIBRARIES = frozenset({"openai", "anthropic", "litellm"})
_HTTP_LIBRARIES = _MODEL_LIBRARIES | {"aiohttp", "botocore", "http", "httpx", "httpx2", "requests", "urllib", "urllib3"}
_NO_ANSWER = frozenset(
    {"APIError", "TransportError", "HTTPClientError", "HTTPException", "ConnectionError", "URLError", "ProtocolError"}
    | {"Timeout", "TimeoutError", "ChunkedEncodingError", "ClientConnectionError", "ClientPayloadError"}
)
"""Classes of these libraries that say, without a status, that a call broke. The others are about wrong arguments."""
_NOT_THE_REQUEST = frozenset({401, 402, 403, 404, 407, 408, 409, 410, 424, 425, 429, 499})
"""Error statuses below 500 that say nothing about what the model was asked."""
_LOST_CONNECTIONS = frozenset({"ConnectionError", "gaierror", "SSLError"})
_NO_JSON = (json.JSONDecodeError, UnicodeDecodeError)
_BROKEN_MACHINE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ETIMEDOUT}
    | {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN}
)
# Modules that the frames of a traceback lie in.
_BOUNDARIES: tuple[tuple[str, FailureKind], ...] = (
    ("strands.tools", FailureKind.TOOL),
    ("langchain_core.tools", FailureKind.TOOL),
    ("agents.tool", FailureKind.TOOL),
    ("aws_rft_sdk.rewards", FailureKind.REWARD),
    ("strands.models", FailureKind.MODEL),
    ("langchain_core.language_models", FailureKind.MODEL),
    ("agents.models", FailureKind.MODEL),
    ("openai", FailureKind.MODEL),
)


def failure_kind(error: BaseException) -> FailureKind:
    """Return why a rollout failed, from what its handler raised.

    An error whose attribute `kind` is the value of a `FailureKind` says so itself, so errors of your own may. Otherwise
    the error, what caused it, the members of a group and what it was raised in the course of are looked at in this
    order. The first one whose class tells decides. If none does, the first one that was raised in a tool or in a reward
    decides. Returns `FailureKind.AGENT` if nothing tells.
    """
    chain = list(chain_of(error))
    # An agent that loops runs out of stack in the middle of a call, which clients of models take for a lost connection.
    loops = any(isinstance(item, RecursionError) for item in chain)
    tells = (_kind_by_itself if loops else _kind_of_class, _kind_of_place)
    told = (kind for tell in tells for item in chain if (kind := tell(item)) is not None)
    return next(told, FailureKind.AGENT)


def note_kind(error: BaseException, kind: FailureKind | None = None) -> FailureKind:
    """Set `error.kind`, unless the error has an attribute of that name or takes none, and return the kind.

    Args:
        error: What the handler raised.
        kind: Its kind. None to find it out.
    """
    kind = kind or failure_kind(error)
    with contextlib.suppress(Exception):  # the class is the user's
        if not hasattr(error, "kind"):
            error.kind = kind  # type: ignore[attr-defined] # for `on_error`
    return kind


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, what caused it, the members of a group and what it was raised in the course of, each once."""
    waiting, seen = [error], set[int]()
    while waiting:
        item = waiting.pop()
        if item is not None and id(item) not in seen:
            seen.add(id(item))
            yield item
            members = _attribute(item, "exceptions")
            grouped = members if isinstance(members, tuple) else ()
            waiting += [item.__context__, *(m for m in reversed(grouped) if isinstance(m, BaseException))]
            waiting.append(item.__cause__)


def _kind_by_itself(error: BaseException) -> FailureKind | None:
    told = _attribute(error, "kind")
    return FailureKind(told) if isinstance(told, str) and told in FailureKind._value2member_map_ else None


def _kind_of_class(error: BaseException) -> FailureKind | None:
    told = _kind_by_itself(error)
    if told is not None:
        return told
    for own, kind in _OWN.items():
        if isinstance(error, own):
            return kind
    origins = [(str(cls.__module__).partition(".")[0], cls.__name__) for cls in type(error).__mro__]
    for origin in origins:
        if origin in _NAMED:
            return _NAMED[origin]
    of_library = [origin for origin in origins if origin[0] in _HTTP_LIBRARIES]
    if of_library and _type_of_answer(error) == LIMIT_ERROR_CODE:
        return FailureKind.LIMIT  # also where an agent in a tool met it
    place = _innermost_boundary(error.__traceback__)
    if place is FailureKind.TOOL:
        return None  # whatever it is, it happened in a tool
    if of_library:
        return _kind_of_call(error, of_library, place)
    names = {name for _, name in origins}
    if names & _LOST_CONNECTIONS or (isinstance(error, OSError) and error.errno in _BROKEN_MACHINE):
        return FailureKind.INFRASTRUCTURE
    if place is FailureKind.MODEL and isinstance(error, _NO_JSON):
        return FailureKind.INFRASTRUCTURE
    return FailureKind.TIMEOUT if "TimeoutError" in names else None  # three classes in Python 3.10


def _kind_of_call(
    error: BaseException, origins: list[tuple[str, str]], place: FailureKind | None
) -> FailureKind | None:
    """Return the kind of an error of an HTTP library."""
    status = _status_of(error)
    if status is None or status < 400:
        return FailureKind.INFRASTRUCTURE if any(name in _NO_ANSWER for _, name in origins) else None
    if status >= 500 or status in _NOT_THE_REQUEST:
        return FailureKind.INFRASTRUCTURE
    if place is FailureKind.REWARD:  # a judge's call
        return FailureKind.REWARD
    return FailureKind.MODEL if place is FailureKind.MODEL or origins[0][0] in _MODEL_LIBRARIES else None


def _type_of_answer(error: BaseException) -> object:
    """Return the error type that an answer of the runtime has in its header, None if there is none."""
    response = _attribute(error, "response")
    if isinstance(response, Mapping):  # botocore
        answered = response.get("Error")
        return answered.get("Code") if isinstance(answered, Mapping) else None
    headers = _attribute(error if response is None else response, "headers")
    return headers.get(ERROR_TYPE_HEADER) if isinstance(headers, Mapping) else None


def _status_of(error: BaseException) -> int | None:
    response = _attribute(error, "response")
    if isinstance(response, Mapping):  # botocore
        response = response.get("ResponseMetadata")
        found = response.get("HTTPStatusCode") if isinstance(response, Mapping) else None
    else:
        found = _attribute(error, "status_code") or _attribute(error, "status")
        found = found or _attribute(response, "status_code")
    return found if isinstance(found, int) else None


def _attribute(owner: object, name: str) -> Any:
    try:
        return getattr(owner, name, None)
    except Exception:  # a property of the user's class
        return None


def _kind_of_place(error: BaseException) -> FailureKind | None:
    if isinstance(error, errors.RewardError):  # here, so that what caused it tells first
        return FailureKind.REWARD
    place = _innermost_boundary(error.__traceback__)
    return None if place is FailureKind.MODEL else place


def _innermost_boundary(traceback: TracebackType | None) -> FailureKind | None:
    # The innermost one counts, since a tool may run an agent with a model. What a reward runs is part of the reward.
    found = None
    while traceback is not None and found is not FailureKind.REWARD:
        module = str(traceback.tb_frame.f_globals.get("__name__", ""))
        for prefix, kind in _BOUNDARIES:
            if module == prefix or module.startswith(prefix + "."):
                found = kind
        traceback = traceback.tb_next
    return found


# --- in words ---------------------------------------------------------------------------------------------------------


def describe_error(error: BaseException) -> str:
    """Return type and message of an error, as records hold them."""
    try:
        message = str(error)
    except Exception as unprintable:  # an error of the user's own making
        message = f"no message, since that raised {type(unprintable).__name__}"
    # Messages may quote a model's half of a surrogate pair, which no terminal and no file takes.
    return f"{type(error).__name__}: {message}".encode(errors="backslashreplace").decode()


def describe_traceback(error: BaseException) -> str | None:
    """Return the traceback of an error, at most 20,000 characters of it. None if the error was never raised."""
    if error.__traceback__ is None:
        return None
    try:
        lines = traceback.format_exception(error)
    except Exception:  # an error of the user's own making
        return None
    text = "".join(lines).encode(errors="backslashreplace").decode()
    cut = f"\n... {len(text) - _TRACEBACK_CHARACTERS} characters left out ...\n"
    head = _TRACEBACK_CHARACTERS // 4  # the end says more: where it was raised
    tail = _TRACEBACK_CHARACTERS - head - len(cut)
    return text if len(text) <= _TRACEBACK_CHARACTERS else text[:head] + cut + text[-tail:]


def error_type(text: str | None) -> str | None:
    """Return the class of an error that `describe_error` has described; None for any other text."""
    name, colon, _ = (text or "").partition(":")
    return name if colon and name.isidentifier() else None
