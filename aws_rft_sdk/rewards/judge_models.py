"""Models that answer for a judge: Strands models, OpenAI clients, boto3 clients for Bedrock's Converse API.

None of the three libraries is imported here. What a source can do decides what it is.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import copy
import inspect
import json
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from aws_rft_sdk._backoff import parse_retry_after
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError

_VERDICT = "verdict"
"""Name of the tool, or of the response format, for the verdict."""
_CHOICE = {"tool": {"name": _VERDICT}}
_OF_THE_JUDGE = {"messages", "model", "modelId", "response_format", "stream", "system", "timeout", "toolConfig"}
"""Arguments of the call of a client that the judge sets itself."""
_CLOSE_SECONDS = 5.0
_REFUSALS = ("content_filter", "content_filtered", "guardrail_intervened", "refusal")
"""Why a model stops when it, or its provider, declines."""


class Failure(str, Enum):
    """Why there is no verdict. For the last two, the model was not called."""

    THROTTLED = "throttled"
    UNAVAILABLE = "unavailable"
    """There was no connection, or the service had a fault of its own."""
    TIMEOUT = "timeout"
    MALFORMED = "malformed"
    REFUSED = "refused"
    """The service turned the request away, or the model declined."""
    ERROR = "error"
    """Anything else. The detail says what."""
    NO_REFERENCE = "no reference"
    """The rubric needs a ground truth, and the rollout has none."""
    NO_COMPARISON = "no comparison"
    """There is nothing to compare an answer with."""


@dataclass(eq=False)
class NoVerdictError(Exception):
    """There is no verdict. Callers of a judge get a result with a `Failure` instead."""

    failure: Failure
    detail: str
    was_sent: bool = False
    """Whether the model may have worked, so that its tokens may have to be paid."""
    retry_after: float | None = None
    """Seconds that the service asked for."""
    blames_form: bool = False
    """Whether the same call may succeed if no form is forced on the answer."""


@dataclass(frozen=True)
class JudgeCost:
    """What a judge has used in this process. Retries and requests that failed are calls too."""

    calls: int = 0
    retries: int = 0
    cache_hits: int = 0
    """Verdicts that came from the cache, without a request."""
    failures: int = 0
    """Questions that ended without a verdict."""
    input_tokens: int = 0
    """As the provider reports them; 0 if it does not."""
    output_tokens: int = 0

    def price(self, input_per_million: float, output_per_million: float) -> float:
        """Return the price of the tokens, in the currency of the two prices for a million."""
        return (self.input_tokens * input_per_million + self.output_tokens * output_per_million) / 1_000_000


class Reply(NamedTuple):
    """What a model said, and why it declined, "" if it did not. Tokens are 0 if the provider does not count them."""

    text: str
    input_tokens: int
    output_tokens: int
    refusal: str


Turn = tuple[str, str]
"""Role and text of a message to or from a judge."""
Schema = Mapping[str, JSON]


@dataclass(eq=False, repr=False)
class JudgeModel:
    """A model that answers for a judge. Safe from several threads."""

    client: Any
    model_id: str | None
    params: Mapping[str, JSON]
    is_owned: bool
    """Whether the client was made for this judge, so that `close` closes it."""
    forces_form: bool = True
    """Whether the model is made to answer by the schema. False once the model has refused that."""

    def __post_init__(self) -> None:
        if not self.model_id:
            raise ConfigurationError(f"{type(self.client).__name__} does not know which model to ask; pass model_id")
        if taken := sorted(_OF_THE_JUDGE & self.params.keys()):
            raise ConfigurationError(f"params cannot have {', '.join(taken)}: the judge sets these itself")

    @property
    def identity(self) -> str:
        """What, beside the question, decides about the verdict: the model and its parameters."""
        # A value that is not JSON, such as a function, has no text that lasts. Its type has to do.
        what = [self.model_id, self._config()]
        return json.dumps(what, sort_keys=True, default=lambda value: type(value).__name__)

    def ask(self, system: str, turns: Sequence[Turn], schema: Schema | None, timeout_seconds: float) -> Reply:
        """Make one call, without retries. The answer is forced to follow the schema, unless that is None.

        Raises `NoVerdictError` if the call fails, and nothing else.
        """
        answer = _run(lambda: self._send(system, turns, schema, timeout_seconds), timeout_seconds)
        try:
            return self._read(answer)
        except (AttributeError, LookupError, TypeError):  # clients do not check what came, so it may be anything
            raise NoVerdictError(Failure.MALFORMED, "the answer is no chat completion", was_sent=True) from None

    def close(self) -> None:
        """Close a client that was made for this judge."""
        if self.is_owned and callable(close := getattr(self.client, "close", None)):
            _run(close, _CLOSE_SECONDS)

    def _config(self) -> Mapping[str, Any]:
        return self.params

    def _send(self, system: str, turns: Sequence[Turn], schema: Schema | None, seconds: float) -> Any:
        """Call the client. Returns what the client returns, or a coroutine that does."""
        raise NotImplementedError

    def _read(self, answer: Any) -> Reply:
        raise NotImplementedError


class _OpenAI(JudgeModel):
    """Asks through chat completions, with a JSON schema as the response format."""

    def _send(self, system: str, turns: Sequence[Turn], schema: Schema | None, seconds: float) -> Any:
        messages = [{"role": role, "content": text} for role, text in (("system", system), *turns)]
        form = {"type": "json_schema", "json_schema": {"name": _VERDICT, "strict": True, "schema": schema}}
        more = {**self.params, "model": self.model_id, **({"response_format": form} if schema else {})}
        return self._create(messages=messages, timeout=seconds, **more)

    def _create(self, **arguments: Any) -> Any:
        return self.client.chat.completions.create(**arguments)

    def _read(self, answer: Any) -> Reply:
        choice, usage = answer.choices[0], getattr(answer, "usage", None)
        text, refusal = choice.message.content, choice.message.refusal
        tokens = getattr(usage, "prompt_tokens", 0), getattr(usage, "completion_tokens", 0)
        reply = _reply(text if isinstance(text, str) else "", choice.finish_reason, *tokens)
        return reply._replace(refusal=f"the model declined: {refusal!s:.200}") if refusal else reply


class _AsyncOpenAI(_OpenAI):
    """Asks as `_OpenAI`, over connections of its own: each call has its own loop, and those cannot share any."""

    async def _create(self, **arguments: Any) -> Any:
        async with sys.modules["openai"].DefaultAsyncHttpxClient() as connections:
            client = self.client.with_options(http_client=connections)
            return await client.chat.completions.create(**arguments)


class _Converse(JudgeModel):
    """Asks through Bedrock's Converse API, with a tool that must be called. Needs boto3 and nothing else."""

    def _send(self, system: str, turns: Sequence[Turn], schema: Schema | None, seconds: float) -> Any:
        more = {**self.params, "modelId": self.model_id}
        if schema:
            more["toolConfig"] = {"tools": [{"toolSpec": _tool(schema)}], "toolChoice": _CHOICE}
        return self.client.converse(system=[{"text": system}], messages=_blocks(turns), **more)

    def _read(self, answer: Any) -> Reply:
        content, usage = answer["output"]["message"]["content"], answer.get("usage") or {}
        calls = [json.dumps(block["toolUse"]["input"]) for block in content if "toolUse" in block]
        text = "\n".join(calls or (block["text"] for block in content if "text" in block))
        return _reply(text, answer.get("stopReason"), usage.get("inputTokens"), usage.get("outputTokens"))


class _Strands(JudgeModel):
    """Asks through `stream`, with a tool that must be called."""

    def __post_init__(self) -> None:
        if self.params:
            raise ConfigurationError("params are for clients; a Strands model has its own in its configuration")

    def _config(self) -> Mapping[str, Any]:
        return dict(self.client.get_config() or {})

    async def _send(self, system: str, turns: Sequence[Turn], schema: Schema | None, seconds: float) -> Any:
        tools, choice = ([_tool(schema)], _CHOICE) if schema else (None, None)
        async with aclosing(self.client.stream(_blocks(turns), tools, system, tool_choice=choice)) as events:
            return [event async for event in events]

    def _read(self, answer: Any) -> Reply:
        calls: list[str] = []
        text, stopped = "", ""
        usage: Mapping[str, Any] = {}
        for event in answer:
            delta = event.get("contentBlockDelta", {}).get("delta", {})
            if "toolUse" in event.get("contentBlockStart", {}).get("start", {}):
                calls.append("")
            if "toolUse" in delta and calls:
                calls[-1] += delta["toolUse"].get("input", "")
            text += delta.get("text", "")
            stopped = event.get("messageStop", {}).get("stopReason") or stopped
            usage = event.get("metadata", {}).get("usage") or usage
        # Some providers ignore the choice of a tool and give the object as text.
        return _reply("\n".join(calls) or text, stopped, usage.get("inputTokens"), usage.get("outputTokens"))


def _reply(text: str, stop_reason: object, *tokens: object) -> Reply:
    # A verdict is not lost over its price.
    input_tokens, output_tokens = (count if isinstance(count, int) else 0 for count in tokens)
    refusal = f"the model stopped: {stop_reason}" if stop_reason in _REFUSALS else ""
    return Reply(text, input_tokens, output_tokens, refusal)


def _tool(schema: Schema) -> dict[str, JSON]:
    return {"name": _VERDICT, "description": "Gives the verdict.", "inputSchema": {"json": schema}}


def _blocks(turns: Sequence[Turn]) -> list[dict[str, JSON]]:
    return [{"role": role, "content": [{"text": text}]} for role, text in turns]


# --- what a judge is made with ---


def make_judge_model(source: Any, model_id: str | None, params: Mapping[str, JSON], is_forked: bool) -> JudgeModel:
    """Return the model that answers for a judge. If `is_forked`, the parent process may use a given client too.

    Raises `ConfigurationError` if the source is something else, `model_id` is missing, or `params` cannot be used.
    """
    is_owned = _kind_of(source) is None and callable(source) and not isinstance(source, type)
    made = source() if is_owned else source
    kind = _kind_of(made)
    if kind is None:
        raise ConfigurationError(
            "a judge needs a Strands model, an OpenAI client, a boto3 client for bedrock-runtime, or a function that "
            f"makes one, not a {type(made).__name__}"
        )
    is_shared = is_forked and not is_owned
    if issubclass(kind, _OpenAI):
        # The judge repeats calls itself, and counts them.
        own = sys.modules["openai"].DefaultHttpxClient() if is_shared and kind is _OpenAI else None
        made = made.with_options(max_retries=0, http_client=own)
    elif kind is _Converse and is_shared:
        made.close()  # the connections only: the next call opens new ones
    elif any(base.__name__ in ("OpenAIModel", "OpenAIResponsesModel") for base in type(made).__mro__):
        made = copy.copy(made)
        made.client_args = {**made.client_args, "max_retries": 0} if made.client_args else made.client_args
    return kind(made, model_id, params, is_owned)


def _kind_of(source: object) -> type[JudgeModel] | None:
    if isinstance(source, type):
        return None
    if callable(getattr(source, "converse", None)):
        return _Converse
    if callable(getattr(source, "stream", None)) and callable(getattr(source, "get_config", None)):
        return _Strands
    if not callable(getattr(getattr(getattr(source, "chat", None), "completions", None), "create", None)):
        return None
    return _AsyncOpenAI if inspect.iscoroutinefunction(getattr(source, "close", None)) else _OpenAI


def check_picklable(source: object) -> None:
    """Refuse a live client. Raises `TypeError`. A Strands model and a function are for `pickle` to check."""
    if _kind_of(source) not in (None, _Strands):
        raise TypeError(
            f"the {type(source).__name__} of this judge cannot be pickled. Give the judge a factory: a function "
            "without arguments, at the top level of a module, that makes it"
        )


# --- calls and their failures ---


def _run(call: Callable[[], Any], timeout_seconds: float) -> Any:
    """Call a function in a thread of its own, and await what it returns there if that is a coroutine.

    The context of the call is empty. No rollout is in progress there, so a model or client that is tied to rollouts
    sends no headers of them: a call of a judge is no turn of the policy. Nothing can end a blocking call: one that is
    late goes on by itself until its own timeouts end it. Raises `NoVerdictError` if the call fails or is late.
    """
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def run() -> None:
        try:
            result = call()
            is_async = inspect.iscoroutine(result)
            future.set_result(asyncio.run(asyncio.wait_for(result, timeout_seconds)) if is_async else result)
        except BaseException as error:  # the caller gets it
            future.set_exception(_call_failed(error))

    threading.Thread(target=contextvars.Context().run, args=(run,), name="rft-judge-call", daemon=True).start()
    try:
        return future.result(timeout_seconds)
    except concurrent.futures.TimeoutError:
        raise NoVerdictError(Failure.TIMEOUT, f"no answer within {timeout_seconds:g} s", was_sent=True) from None


_NO_CONNECTION = "ConnectError ConnectTimeout ConnectTimeoutError ConnectionRefusedError EndpointConnectionError"
_NOT_SENT = set(_NO_CONNECTION.split())
_BY_NAME = (
    (Failure.UNAVAILABLE, _NOT_SENT),
    (Failure.THROTTLED, {"ModelThrottledException", "ThrottlingException", "TooManyRequestsException"}),
    (Failure.REFUSED, {"ContextWindowOverflowException"}),
    (Failure.TIMEOUT, {"TimeoutError", "TimeoutException", "APITimeoutError", "ReadTimeoutError"}),
    (Failure.UNAVAILABLE, {"APIConnectionError", "ConnectionError", "TransportError", "HTTPClientError"}),
    (Failure.MALFORMED, {"JSONDecodeError", "UnicodeDecodeError", "ResponseParserError", "APIResponseValidationError"}),
)


def _call_failed(error: BaseException) -> NoVerdictError:
    """Return what an error of a provider means: by status first, then by names of classes and codes, never by text."""
    if isinstance(error, NoVerdictError):
        return error
    names: set[str] = set()
    status, headers = 0, None
    links = [error]
    for link in links:
        names |= {kind.__name__ for kind in type(link).__mro__}
        response = getattr(link, "response", None)
        found, of_link = getattr(link, "status_code", None), getattr(response, "headers", None)  # openai
        if isinstance(response, Mapping):  # botocore
            names.add(str(response.get("Error", {}).get("Code")))
            about = response.get("ResponseMetadata", {})
            found, of_link = about.get("HTTPStatusCode"), about.get("HTTPHeaders")
        if isinstance(found, int) and found >= 400:  # a success is no cause
            status, headers = found, of_link  # of the last link, which is nearest to the wire
        cause = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
        links += [cause] if cause is not None and cause not in links else []
    if status:  # nothing of its text: it may quote the key and the prompt
        is_fault = status in (408, 409, 424) or status >= 500
        failure = Failure.THROTTLED if status == 429 else Failure.UNAVAILABLE if is_fault else Failure.REFUSED
        failed = NoVerdictError(failure, f"{type(error).__name__} {status}", blames_form=status in (400, 422))
        failed.retry_after = parse_retry_after((headers or {}).get("retry-after"))
    else:
        failure = next((failure for failure, known in _BY_NAME if names & known), Failure.ERROR)
        was_sent = failure not in (Failure.THROTTLED, Failure.REFUSED) and not names & _NOT_SENT
        detail = f"{type(error).__name__}: {error}"[:300]
        failed = NoVerdictError(failure, detail, was_sent, blames_form=failure is Failure.ERROR)
    failed.__cause__ = error
    return failed
