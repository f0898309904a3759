"""Why a rollout failed: one kind for each error, whatever library raised it. Pure."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from enum import Enum
from types import TracebackType

from aws_rft_sdk import errors
from aws_rft_sdk.wire import ERROR_TYPE_HEADER, LIMIT_ERROR_CODE


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
    """The rollout missed its deadline."""
    LIMIT = "limit"
    """The rollout used up its limit of turns, tokens or cost."""
    INFRASTRUCTURE = "infrastructure"
    """Something around the rollout broke: a server error, a lost connection, a dead process, a full disk."""


_OWN: dict[type[BaseException], FailureKind] = {
    errors.RewardError: FailureKind.REWARD,
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
    ("strands", "ModelThrottledException"): FailureKind.INFRASTRUCTURE,
    ("strands", "MaxTokensReachedException"): FailureKind.MODEL,
    ("strands", "ContextWindowOverflowException"): FailureKind.MODEL,
    ("strands", "StructuredOutputException"): FailureKind.MODEL,
    ("strands", "ToolProviderException"): FailureKind.TOOL,
    ("strands", "MCPClientInitializationError"): FailureKind.TOOL,
    ("langchain_core", "OutputParserException"): FailureKind.MODEL,
    ("langchain_core", "ToolException"): FailureKind.TOOL,
}
_HTTP_LIBRARIES = frozenset({"openai", "anthropic", "litellm", "httpx", "httpx2", "botocore", "aiohttp", "requests"})
_NOT_THE_REQUEST = frozenset({401, 402, 403, 408, 424, 429, 499})
"""Error statuses below 500 that say nothing about what the model was asked."""
_BROKEN_MACHINE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO})
# Modules that the frames of a traceback lie in. The innermost one counts: a tool may run an agent with a model.
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
    the error, what caused it and what it was raised in the course of are looked at in this order. The first one that
    tells decides. `FailureKind.AGENT` if none does.
    """
    for item in chain_of(error):
        kind = _kind_of(item)
        if kind is not None:
            return kind
    return FailureKind.AGENT


def note_kind(error: BaseException) -> FailureKind:
    """Set `error.kind`, unless its class has an attribute of that name, and return the kind."""
    kind = failure_kind(error)
    if not hasattr(error, "kind"):
        error.kind = kind  # type: ignore[attr-defined] # for `on_error`
    return kind


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, what caused it and what it was raised in the course of, each once."""
    waiting, seen = [error], set[int]()
    while waiting:
        item = waiting.pop()
        if item is not None and id(item) not in seen:
            seen.add(id(item))
            yield item
            waiting += [item.__context__, item.__cause__]


def _kind_of(error: BaseException) -> FailureKind | None:
    told = getattr(error, "kind", None)
    if isinstance(told, str) and told in FailureKind._value2member_map_:
        return FailureKind(told)
    for cls, kind in _OWN.items():
        if isinstance(error, cls):
            return kind
    for cls in type(error).__mro__:
        library = cls.__module__.partition(".")[0]
        named = _NAMED.get((library, cls.__name__))
        if named is not None:
            return named
        if library in _HTTP_LIBRARIES:
            return _kind_of_call(error)
    if isinstance(error, OSError) and error.errno in _BROKEN_MACHINE:
        return FailureKind.INFRASTRUCTURE
    boundary = _innermost_boundary(error.__traceback__)
    return None if boundary is FailureKind.MODEL else boundary


def _kind_of_call(error: BaseException) -> FailureKind:
    """Return the kind of an error of an HTTP library."""
    if _type_of_answer(error) == LIMIT_ERROR_CODE:
        return FailureKind.LIMIT
    boundary = _innermost_boundary(error.__traceback__)
    if boundary is FailureKind.TOOL:
        return boundary
    status = _status_of(error)
    if status is None or status >= 500 or status in _NOT_THE_REQUEST:
        return FailureKind.INFRASTRUCTURE
    return FailureKind.MODEL


def _type_of_answer(error: BaseException) -> object:
    """Return the error type that an answer of the runtime has in its header, None if there is none."""
    response = getattr(error, "response", error)
    if isinstance(response, Mapping):  # botocore
        return (response.get("Error") or {}).get("Code")
    headers = getattr(response, "headers", None)
    return headers.get(ERROR_TYPE_HEADER) if isinstance(headers, Mapping) else None


def _status_of(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # botocore
        response = response.get("ResponseMetadata")
        found = response.get("HTTPStatusCode") if isinstance(response, Mapping) else None
    else:
        found = getattr(error, "status_code", None) or getattr(error, "status", None)
        found = found or getattr(response, "status_code", None)
    return found if isinstance(found, int) else None


def _innermost_boundary(traceback: TracebackType | None) -> FailureKind | None:
    found = None
    while traceback is not None:
        module = str(traceback.tb_frame.f_globals.get("__name__", ""))
        for prefix, kind in _BOUNDARIES:
            if module == prefix or module.startswith(prefix + "."):
                found = kind
        traceback = traceback.tb_next
    return found
