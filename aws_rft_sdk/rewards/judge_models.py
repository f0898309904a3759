"""Who answers for a judge: Strands models and OpenAI clients, asked for one object of a given schema.

A call of a judge is no turn of the policy. It is made in an empty `contextvars.Context`, where no rollout is in
progress, so that a model or a client that is tied to rollouts sends no headers for it.

`openai` and `strands` are not imported here: a model or a client of theirs is recognized once the caller has imported
them.
"""

from __future__ import annotations

import copy
import functools
import json
import sys
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, NamedTuple, Protocol

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards.judge_failures import CallFailedError, Failure, call_failed
from aws_rft_sdk.rewards.judge_loop import run_in_judges_loop, run_in_thread
from aws_rft_sdk.rewards.judge_prompts import Question

VERDICT = "verdict"
"""Name of the tool, or of the response format, that the verdict comes as."""
CLOSE_SECONDS = 5.0
_REFUSALS = ("content_filtered", "guardrail_intervened", "refusal")
"""Why a Strands model stops when it, or its provider, declines; the last one is Anthropic's own word."""


class Reply(NamedTuple):
    """What a judge gave."""

    text: str
    """The verdict as JSON, not checked yet."""
    input_tokens: int
    output_tokens: int
    refusal: str = ""
    """Why there is no verdict although the model answered; "" when it did not decline."""


class JudgeModel(Protocol):
    """Whoever answers. Safe from several threads."""

    identity: str
    """What, beside the question, decides about the verdict: the model and its parameters."""

    def ask(self, question: Question, timeout_seconds: float) -> Reply:
        """Make one call, without retries.

        Args:
            question: What to send.
            timeout_seconds: Seconds for the call.

        Raises:
            CallFailedError: It failed; nothing else is raised.
        """

    def close(self) -> None:
        """Close what nobody else can close: connections in the judges' loop, and a client that was made for this."""


def make_judge_model(source: Any, model_id: str | None, params: Mapping[str, JSON]) -> JudgeModel:
    """Return who answers.

    Args:
        source: A Strands model, an OpenAI client, or a function without arguments that returns one of these.
        model_id: See `Judge`.
        params: See `Judge`.

    Raises:
        ConfigurationError: It is something else, or an OpenAI client comes without the id of a model.
    """
    check_source(source)
    given = _is_model(source) or _is_client(source)
    if not given:
        made = source()
        if not _is_model(made) and not _is_client(made):
            raise ConfigurationError(
                f"the function of a judge must return a Strands model or an OpenAI client, not {type(made).__name__}"
            )
        source = made
    if _is_model(source):
        return _StrandsJudge(source, model_id, params)
    if not model_id:
        raise ConfigurationError("an OpenAI client does not know which model to ask; pass model_id")
    return _OpenAIJudge(source, model_id, params, owned=not given)


def check_source(source: object) -> None:
    """Check that this may be something that answers for a judge.

    Raises:
        ConfigurationError: It may not.
    """
    if not _is_model(source) and not _is_client(source) and (not callable(source) or isinstance(source, type)):
        raise ConfigurationError(
            f"a judge needs a Strands model, an OpenAI client or a function that makes one, not {type(source).__name__}"
        )


def _is_model(source: object) -> bool:
    return isinstance(source, _known("strands.models.model", "Model"))


def _is_client(source: object) -> bool:
    return isinstance(source, (*_known("openai", "OpenAI"), *_known("openai", "AsyncOpenAI")))


def _known(module: str, name: str) -> tuple[type[Any], ...]:
    # A module that nobody has imported cannot be the home of anybody's class.
    found = getattr(sys.modules.get(module), name, None)
    return (found,) if isinstance(found, type) else ()


def picklable(source: Any) -> Any:
    """Return what makes an equal source in another process: plain OpenAI clients as a recipe, all else as it is.

    Raises:
        TypeError: A client that has more to it than values.
    """
    if not _is_client(source):
        return source
    kind: Any = type(source)
    plain = kind in (*_known("openai", "OpenAI"), *_known("openai", "AsyncOpenAI"))
    # What `openai` makes when it is given no HTTP client has no public name.
    own_http = type(source._client).__name__ in ("SyncHttpxClientWrapper", "AsyncHttpxClientWrapper")
    if not plain or not own_http or getattr(source, "_provider", None) is not None:
        raise TypeError(
            f"this {kind.__name__} cannot be pickled: it is of a special kind or has an HTTP client of its own. Give "
            "the judge a function at the top level of a module that makes the client"
        )
    return functools.partial(
        kind,
        api_key=source._api_key_provider or source.api_key,
        organization=source.organization,
        project=source.project,
        base_url=str(source.base_url),
        timeout=source.timeout,
        default_headers=dict(source._custom_headers),
        default_query=dict(source._custom_query),
    )


def _identity(model_id: str | None, config: Mapping[str, Any]) -> str:
    # What is no JSON, such as a function, has no text that lasts; its type has to do.
    return json.dumps([model_id, config], sort_keys=True, default=lambda value: type(value).__name__)


# --- OpenAI clients --------------------------------------------------------------------------------------------------


class _OpenAIJudge:
    """Asks through `chat.completions` with a JSON schema as the response format."""

    def __init__(self, client: Any, model_id: str, params: Mapping[str, JSON], *, owned: bool) -> None:
        if taken := sorted({"messages", "model", "response_format", "stream", "timeout"} & set(params)):
            raise ConfigurationError(f"params cannot have {', '.join(taken)}: the judge sets these itself")
        self._client = client.with_options(max_retries=0)  # retries are ours, and counted
        self._is_async = isinstance(client, _known("openai", "AsyncOpenAI"))
        self._owned = owned
        self._model_id = model_id
        self._params = dict(params)
        self.identity = _identity(model_id, self._params)

    def ask(self, question: Question, timeout_seconds: float) -> Reply:
        call = functools.partial(
            self._client.chat.completions.create,
            **self._params,
            model=self._model_id,
            messages=[{"role": "system", "content": question.system}, {"role": "user", "content": question.user}],
            response_format={
                "type": "json_schema",
                "json_schema": {"name": VERDICT, "strict": True, "schema": question.schema},
            },
            timeout=timeout_seconds,
        )
        handled = sys.exc_info()[1]
        try:
            return _reply_of((run_in_judges_loop if self._is_async else run_in_thread)(call, timeout_seconds))
        except Exception as error:
            raise call_failed(error, handled) from error

    def close(self) -> None:
        if self._is_async:
            run_in_judges_loop(self._client.close, CLOSE_SECONDS)
        elif self._owned:
            self._client.close()


def _reply_of(completion: Any) -> Reply:
    # `openai` does not check what came against its types, so anything may stand here.
    usage = getattr(completion, "usage", None)
    tokens = (_count(getattr(usage, "prompt_tokens", None)), _count(getattr(usage, "completion_tokens", None)))
    try:
        choice = completion.choices[0]
        text, refusal = choice.message.content, choice.message.refusal
    except (AttributeError, LookupError, TypeError) as error:
        raise CallFailedError(Failure.MALFORMED, "the reply is no chat completion", retry=True) from error
    if refusal:
        return Reply("", *tokens, refusal=f"the model declined: {refusal!s:.200}")
    if choice.finish_reason == "content_filter":
        return Reply("", *tokens, refusal="the answer was filtered")
    return Reply(text if isinstance(text, str) else "", *tokens)


def _count(tokens: object) -> int:
    """Return a count of tokens, 0 where the provider left it out: a verdict is not lost for the sake of its price."""
    return tokens if isinstance(tokens, int) else 0


# --- Strands models --------------------------------------------------------------------------------------------------


class _StrandsJudge:
    """Asks through `stream` with one tool that must be called, which all providers have in common."""

    def __init__(self, model: Any, model_id: str | None, params: Mapping[str, JSON]) -> None:
        if params:
            raise ConfigurationError("params are for OpenAI clients; a Strands model has its own in its configuration")
        self._model = _without_retries(model)
        config = model.get_config()
        self.identity = _identity(model_id, dict(config) if isinstance(config, Mapping) else {})

    def ask(self, question: Question, timeout_seconds: float) -> Reply:
        handled = sys.exc_info()[1]
        try:
            return run_in_judges_loop(functools.partial(self._ask, question), timeout_seconds)
        except Exception as error:
            raise call_failed(error, handled) from error

    def close(self) -> None:
        """Do nothing: Strands opens and closes connections itself."""

    async def _ask(self, question: Question) -> Reply:
        tool = {
            "name": VERDICT,
            "description": "Gives the verdict.",
            "inputSchema": {"json": question.schema},
        }
        messages = [{"role": "user", "content": [{"text": question.user}]}]
        stream = self._model.stream(messages, [tool], question.system, tool_choice={"tool": {"name": VERDICT}})
        calls: list[str] = []
        texts: list[str] = []
        usage: Mapping[str, Any] = {}
        stopped = ""
        async with aclosing(stream) as events:
            async for event in events:
                if "toolUse" in event.get("contentBlockStart", {}).get("start", {}):
                    calls.append("")
                delta = event.get("contentBlockDelta", {}).get("delta", {})
                if "toolUse" in delta and calls:
                    calls[-1] += delta["toolUse"].get("input", "")
                texts.append(delta.get("text", ""))
                usage = event.get("metadata", {}).get("usage") or usage
                stopped = event.get("messageStop", {}).get("stopReason") or stopped
        # Providers without a forced choice of tools may give the object as text. Two calls are no verdict.
        text = "".join(texts) if not calls else calls[0] if len(calls) == 1 else ""
        refusal = f"the model stopped: {stopped}" if stopped in _REFUSALS else ""
        return Reply(text, _count(usage.get("inputTokens")), _count(usage.get("outputTokens")), refusal)


def _without_retries(model: Any) -> Any:
    """Return a Strands model whose OpenAI client, if it has one, does not retry on its own: retries are counted."""
    kinds = (
        *_known("strands.models.openai", "OpenAIModel"),
        *_known("strands.models.openai_responses", "OpenAIResponsesModel"),
    )
    if not isinstance(model, kinds) or not isinstance(getattr(model, "client_args", None), dict):
        return model
    model = copy.copy(model)
    model.client_args = {**model.client_args, "max_retries": 0}
    if _is_client(getattr(model, "_custom_client", None)):
        model._custom_client = model._custom_client.with_options(max_retries=0)
    return model
