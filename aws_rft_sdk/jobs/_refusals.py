"""Errors of `openai` and `botocore` as errors of this package: what was refused, why, and what to type next.

Status and code decide, never the text. No text holds a token or a key, also where the service quotes it.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from aws_rft_sdk._backoff import parse_retry_after
from aws_rft_sdk.errors import (
    ConfigurationError,
    CredentialsError,
    JobServiceError,
    RFTError,
    ServiceConnectionError,
    ServiceFaultError,
    ServiceTimeoutError,
    ThrottledError,
    TransportError,
)
from aws_rft_sdk.jobs.iam import statement
from aws_rft_sdk.wire import MESSAGE_MAX_LENGTH, loggable

_WORDS = re.compile(r"not authorized to perform:? (?P<action>[\w-]+:\w+)(?:.*? on resource:? (?P<resource>arn:\S+))?")
"""AWS's sentence for a refused action. Where it names another action than ours, the policy has to allow that one."""
# Codes without their ending "Exception".
_STALE_CODES = frozenset(
    {"ExpiredToken", "InvalidClientTokenId", "UnrecognizedClient", "RequestExpired", "InvalidSignature", "AuthFailure"}
    | {"SignatureDoesNotMatch", "MissingAuthenticationToken", "InvalidAccessKeyId", "IncompleteSignature"}
    | {"invalid_api_key"}
)
_ACCESS_CODES = frozenset({"AccessDenied", "UnauthorizedOperation", "permission_denied"})
_QUOTA_CODES = frozenset(
    {"ServiceQuotaExceeded", "LimitExceeded", "ResourceLimitExceeded", "CodeStorageExceeded", "TooManyTags"}
    | {"insufficient_quota"}
)
_THROTTLING_CODES = frozenset(
    {"Throttling", "Throttled", "TooManyRequests", "RequestLimitExceeded", "SlowDown", "RequestThrottled"}
)
_MISSING_CODES = frozenset({"ResourceNotFound", "NoSuchEntity", "NoSuchBucket", "NoSuchKey", "model_not_found"})
# By the names of their classes, so that neither library is imported for it.
_NO_CREDENTIALS = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError"}
    | {"SSOError", "UnauthorizedSSOTokenError", "SSOTokenLoadError", "ProfileNotFound", "NoAuthTokenError"}
    | {"RefreshWithMFAUnsupportedError", "LoginError"}
)
_TIMEOUTS = frozenset({"APITimeoutError", "TimeoutException", "ReadTimeoutError", "ConnectTimeoutError"})
_BROKEN = frozenset({"APIConnectionError", "HTTPClientError", "ConnectionError", "TransportError", "RequestError"})
_NOTHING_SENT = frozenset(
    {"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "ProxyError"}
    | {"EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError"}
)
_LOG_IN = (
    "Log in again (for example `aws sso login`), or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or choose a "
    "profile with AWS_PROFILE. If AWS_BEARER_TOKEN_BEDROCK is set, it wins: renew it or unset it"
)


class _Answer(NamedTuple):
    status: int
    code: str | None
    words: str
    request_id: str | None
    retry_after_seconds: float | None


def refusal(error: BaseException, action: str, resource: str = "*") -> RFTError:
    """Return the error of this package for what `openai` or `botocore` raised.

    Raise what is returned `from None`: the text of the original may hold what the service quoted of the request.

    Args:
        error: What was raised. One of this package's own errors, or one that was caused by one, is returned as it is.
        action: IAM action of the call, for example `bedrock-mantle:CreateFile`.
        resource: ARN that the action concerns, for the policy statement.

    Returns:
        `CredentialsError`: there are no credentials, or they have expired.
        `ThrottledError`: 429. Repeating is safe.
        `ServiceFaultError`, `ServiceTimeoutError`, `ServiceConnectionError`: the service or the network failed.
        `may_have_happened` says whether the call may have taken effect.
        `ConfigurationError`: `botocore` found the arguments wrong, and sent nothing.
        `JobServiceError`: all other refusals, those of IAM with the statement that allows the action.
    """
    chain = list(_causes(error))
    for item in chain:
        if isinstance(item, RFTError):
            return item
    secrets = [secret for item in chain for secret in _secrets_of(item)]
    answer = next((found for item in chain if (found := _answer_of(item, secrets)) is not None), None)
    return _without_answer(chain, action, secrets) if answer is None else _of_answer(answer, action, resource)


def is_read(action: str) -> bool:
    """Return whether an action only reads, so that it cannot have had an effect."""
    return action.rpartition(":")[2].startswith(("Get", "List", "Describe"))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what caused it. Not what it was raised in the course of, which may be another call."""
    while error is not None:
        yield error
        error = error.__cause__


def _of_answer(answer: _Answer, action: str, resource: str) -> RFTError:
    status, code = answer.status, (answer.code or "").removesuffix("Exception")
    named = f"{status} {answer.code or ''}".rstrip()
    what = f"{action} was refused ({named}): {answer.words or 'no reason was given'}".rstrip(". ")
    facts: dict[str, Any] = {
        "status": status,
        "code": answer.code,
        "request_id": answer.request_id,
        "body": answer.words,
    }
    if code in _STALE_CODES or (status == 401 and code not in _ACCESS_CODES):
        return CredentialsError(f"{what}. The credentials are expired, wrong or of another region. {_LOG_IN}")
    if code in _QUOTA_CODES or status == 402:
        next_step = "A quota of the account is used up: raise it in Service Quotas, or wait until running jobs end"
    elif code in _THROTTLING_CODES or status == 429:
        return ThrottledError(
            f"{what}. Too many requests or tokens a minute: try again later",
            retry_after_seconds=answer.retry_after_seconds,
            **facts,
        )
    elif code in _ACCESS_CODES or status == 403:
        next_step = _how_to_allow(answer.words, action, resource)
    elif code in _MISSING_CODES or status == 404:
        next_step = "Nothing of that name exists in this region and account. Check the id or name, and the region"
        if action == "bedrock-mantle:CreateFineTuningJob":
            next_step += ": open-weight models are documented to be tuned in us-west-2 only"
    elif status >= 500:
        fault = ServiceFaultError(
            f"{action} failed ({named}): {answer.words}. The service is at fault: try again later",
            retry_after_seconds=answer.retry_after_seconds,
            **facts,
        )
        fault.may_have_happened = not is_read(action)
        return fault
    else:
        next_step = "The request itself is wrong: change what the message names. Repeating it does not help"
    return JobServiceError(f"{what}. {next_step}", action=action, **facts)


def _how_to_allow(words: str, action: str, resource: str) -> str:
    if match := _WORDS.search(words):
        action, resource = match["action"], (match["resource"] or resource).rstrip(".,;")
    if "explicit deny" in words:
        return f"A policy denies {action} explicitly, and no other policy can allow it. Remove that denial"
    return f"Allow it with this policy statement: {json.dumps(statement([action], [resource]))}"


def _without_answer(chain: list[BaseException], action: str, secrets: list[str]) -> RFTError:
    names = {cls.__name__ for item in chain for cls in type(item).__mro__}
    words, outer = (_clean(f"{type(item).__name__}: {item}".rstrip(". "), secrets) for item in (chain[-1], chain[0]))
    if names & _NO_CREDENTIALS:
        return CredentialsError(f"{action} was not sent: {words}. {_LOG_IN}")
    made: type[TransportError] | None = None
    if names & _TIMEOUTS:
        made, text = ServiceTimeoutError, f"{action} got no answer in time ({words})"
    elif names & _BROKEN:
        made, text = ServiceConnectionError, f"{action} lost its connection or got none ({words})"
    if made is not None:
        unsent = bool(names & _NOTHING_SENT)
        may = not unsent and not is_read(action)
        hint = "It may have worked" if may else "Check the network, the endpoint and the region"
        broken = made(f"{text}. {hint}")
        broken.may_have_happened = may
        return broken
    if any(type(item).__module__.startswith("botocore") for item in chain):
        return ConfigurationError(f"{action} was not sent: {words}")
    return JobServiceError(f"{action} failed: {outer}", action=action)


def _answer_of(error: BaseException, secrets: list[str]) -> _Answer | None:
    """Return the service's answer that an error holds, of `openai` or of `botocore`. Returns None if it holds none."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, Mapping) and isinstance(response.get("Error"), Mapping):
        fault, about = response["Error"], response.get("ResponseMetadata", {})
        status, headers, words = about.get("HTTPStatusCode", 0), about.get("HTTPHeaders", {}), fault.get("Message")
        code, request_id = fault.get("Code"), about.get("RequestId")
    elif isinstance(getattr(error, "status_code", None), int) and response is not None:
        status, headers = error.status_code, response.headers  # type: ignore[attr-defined] # looked for above
        words, code = _read_body(response.text)
        code = code or headers.get("x-amzn-errortype")
        request_id = headers.get("x-request-id") or headers.get("x-amzn-requestid")
    else:
        return None
    code = re.split("[:#]", str(code).rpartition("#")[2])[0] if code else None
    return _Answer(
        int(status),
        code and loggable(code, 128),
        _clean(str(words or ""), secrets),
        request_id and loggable(str(request_id), 128),
        parse_retry_after(headers.get("retry-after")),
    )


def _read_body(text: str) -> tuple[str, str | None]:
    """Return message and code of an error body: OpenAI's form, AWS's forms, or any text."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return text, None
    if isinstance(body, Mapping):
        fault = body["error"] if isinstance(body.get("error"), Mapping) else body
        words = next((fault[key] for key in ("message", "Message", "error") if fault.get(key)), text)
        code = next((fault[key] for key in ("code", "__type", "Code", "type") if fault.get(key)), None)
        return str(words), None if code is None else str(code)
    return text, None


def _secrets_of(error: BaseException) -> Iterator[str]:
    """Yield what authenticated the request of an error, since a service may quote it."""
    request: Any = None
    with contextlib.suppress(RuntimeError):  # what httpx raises if an error has no request
        request = getattr(error, "request", None)
    headers: Any = getattr(request, "headers", {})
    for name in ("authorization", "x-amz-security-token", "x-api-key", "api-key"):
        if value := headers.get(name):
            yield str(value).rpartition(" ")[2]


def _clean(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "<removed>")
    return loggable(text, MESSAGE_MAX_LENGTH)
