"""Inference calls: find the trajectory, ask the policy, record the turn, answer - in this order.

A turn is durable before the last byte of its answer leaves. A call that repeats an answered call, under the same span
id, is answered from the record. A call that repeats a call in progress waits for its answer. If the trajectory is
sealed while the policy answers, the answer is refused and not recorded.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, cast

from starlette.types import Send

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runtime import answers, chat, responses_api
from aws_rft_sdk.runtime import state as machine
from aws_rft_sdk.runtime.answers import Refusal, encode
from aws_rft_sdk.runtime.decode import Headers, Tracking, read_chat_request, read_stream_flag, read_tracking
from aws_rft_sdk.runtime.limits import Limiter, RolloutLimits
from aws_rft_sdk.runtime.policies import Call, Passthrough, Policy, PolicyError
from aws_rft_sdk.runtime.records import TurnRow
from aws_rft_sdk.runtime.trajectories import Entry, InFlight, Trajectories
from aws_rft_sdk.wire import SAMPLE_STREAM_PATH

logger = logging.getLogger(__name__)

RESPONSES_PATH = "/v1/responses"

_NOT_COMPARED = ("stream", "stream_options")

Record = Callable[[bytes, "bytes | None"], Awaitable[None]]
"""Stores a turn: the completion as JSON, and the stream as it arrived from an upstream server."""
Finish = Callable[[], Awaitable[None]]
"""Sends the rest of an answer."""


class AnsweredError(Exception):
    """The call failed after its answer had begun. The stream already says so."""


class Inquiry(NamedTuple):
    """One inference call, decoded."""

    path: str
    tracking: Tracking
    request: dict[str, JSON]
    """The chat request."""
    body: bytes
    """The chat request as JSON."""
    stream: bool
    responses_request: dict[str, JSON] | None
    """The request in the form of the Responses API. None if it came as a chat request."""
    wire_body: bytes | None
    """The body as it arrived. None if it came as a chat request."""

    @classmethod
    def read(cls, path: str, headers: Headers, body: bytes, *, strict: bool) -> Inquiry:
        """Decode a call.

        Raises:
            Refusal: 400. The message names the field.
        """
        tracking = read_tracking(headers, strict=strict)
        if path == RESPONSES_PATH:
            asked = responses_api.read_request(body)
            request = responses_api.to_chat(asked)
            return cls(path, tracking, request, encode(request), read_stream_flag(asked), asked, body)
        request = read_chat_request(body)
        stream = read_stream_flag(request) or path == SAMPLE_STREAM_PATH
        return cls(path, tracking, request, body, stream, None, None)

    @property
    def streams_chat(self) -> bool:
        """Whether the caller wants a stream of chat chunks."""
        return self.stream and self.responses_request is None

    @property
    def include_usage(self) -> bool:
        """Whether the caller wants the token counts at the end of the stream."""
        options = self.request.get("stream_options")
        return isinstance(options, Mapping) and options.get("include_usage") is True


class Inference:
    """Serves inference calls.

    Args:
        trajectories: The trajectories.
        policy: Answers the calls. None if no policy does.
        strict: Whether to refuse calls outside of known trajectories.
        limits: The limits of each trajectory. None for no limits.
    """

    def __init__(
        self, trajectories: Trajectories, policy: Policy | None, *, strict: bool, limits: RolloutLimits | None = None
    ) -> None:
        self._policies = [] if policy is None else [policy]
        self._policy = policy
        self.untracked_calls = 0
        """Number of calls that named no trajectory."""
        self._trajectories = trajectories
        self._strict = strict
        self._limiter = Limiter(limits or RolloutLimits(), trajectories)

    @property
    def policy(self) -> Policy | None:
        """The policy that answers at the moment."""
        return self._policy

    def set_policy(self, policy: Policy | None) -> None:
        """Replace the policy. Calls in progress keep theirs."""
        if policy is not None and policy not in self._policies:
            self._policies.append(policy)
        self._policy = policy

    async def aclose(self) -> None:
        """Release what the policies opened in the running event loop."""
        for policy in self._policies:
            await policy.aclose()

    async def serve(self, path: str, headers: Headers, body: bytes, send: Send) -> None:
        """Answer one call.

        Raises:
            Refusal: The call failed. The caller of this method answers it with the error.
            AnsweredError: The call failed, and its stream already says so.
        """
        inquiry = Inquiry.read(path, headers, body, strict=self._strict)
        entry = await self._find(inquiry.tracking)
        if entry is None:
            finish = await sample(self._policy, _call(None, inquiry), inquiry, send, _forget)
            await finish()
            return
        span_id = inquiry.tracking.span_id
        known = entry.spans.get(span_id) if span_id is not None else None
        if known is not None and await self._repeat(entry, known, inquiry, send):
            return
        machine.check_open(entry.state, entry.trajectory_id)
        self._limiter.check(entry)
        flight = InFlight(inquiry.body)
        entry.begun += 1
        if span_id is not None:
            entry.spans[span_id] = flight
        try:
            record = functools.partial(self._record, entry, inquiry, flight)
            finish = await sample(self._policy, _call(entry, inquiry), inquiry, send, record)
        except BaseException as error:
            entry.begun -= 1
            # When not strict, another request may have taken over the span id in the meantime.
            if span_id is not None and entry.spans.get(span_id) is flight:
                del entry.spans[span_id]
            flight.fail(error.__cause__ if isinstance(error, AnsweredError) and error.__cause__ else error)
            raise
        await finish()

    async def _record(
        self, entry: Entry, inquiry: Inquiry, flight: InFlight, response: bytes, wire_response: bytes | None
    ) -> None:
        span_id = inquiry.tracking.span_id
        turn = TurnRow(
            key=0,
            span_id=span_id,
            path=inquiry.path,
            started_at_seconds=flight.started_at,
            duration_seconds=time.perf_counter() - flight.started,
            request=inquiry.body,
            response=response,
            wire_request=inquiry.wire_body,
            wire_response=wire_response,
        )
        index = await self._trajectories.add_turn(entry, turn)
        self._limiter.note(entry, response)
        if span_id is not None and entry.spans.get(span_id) is flight:
            entry.spans[span_id] = index
        flight.finish(index)

    async def _find(self, tracking: Tracking) -> Entry | None:
        if tracking.job_arn is None or tracking.trajectory_id is None:
            self.untracked_calls += 1
            if self._strict:
                raise Refusal(
                    400,
                    f"The call is not tracked: it has no header {' and none '.join(tracking.missing)}. "
                    "Wrap the model with wrap_model or runtime_model, and call it within a rollout.",
                )
            return None
        if self._strict or self._trajectories.get(tracking.trajectory_id) is not None:
            return self._trajectories.find(
                tracking.trajectory_id, tracking.job_arn, strict=self._strict, unknown_job=400
            )
        policy, trajectory_id = self._policy, tracking.trajectory_id
        return await self._trajectories.open_here(
            trajectory_id, tracking.job_arn, announce=lambda: policy.begin(trajectory_id, None) if policy else None
        )

    # --- repetitions -------------------------------------------------------------------------------------------------

    async def _repeat(self, entry: Entry, known: int | InFlight, inquiry: Inquiry, send: Send) -> bool:
        if isinstance(known, InFlight):
            if not self._is_repetition(known.request, inquiry):
                return False
            turn = self._trajectories.turn(entry, await asyncio.shield(known.index))
        else:
            turn = self._trajectories.turn(entry, known)
            if not self._is_repetition(turn.request, inquiry):
                return False
        if turn.wire_response is not None and inquiry.streams_chat:
            body, content_type = turn.wire_response, answers.EVENT_STREAM_TYPE
        else:
            body, content_type = _encode_answer(inquiry, json.loads(turn.response), turn.response)
        await answers.send_body(send, body, content_type=content_type)
        return True

    def _is_repetition(self, request: bytes, inquiry: Inquiry) -> bool:
        if request == inquiry.body:
            return True
        before, now = json.loads(request), json.loads(inquiry.body)
        for name in _NOT_COMPARED:
            before.pop(name, None)
            now.pop(name, None)
        if before == now:
            return True
        if self._strict:
            # Answering from the record would send an agent with a constant span id round in circles.
            raise Refusal(
                400,
                f"The span id {inquiry.tracking.span_id} was used for another request of this trajectory; "
                "every turn needs a span id of its own, and only a retry repeats it",
            )
        return False


# --- new turns -------------------------------------------------------------------------------------------------------


async def sample(policy: Policy | None, call: Call, inquiry: Inquiry, send: Send, record: Record) -> Finish:
    """Ask the policy and have the turn recorded. Returns the function that sends the rest of the answer.

    Raises:
        Refusal: The policy refused or failed, or its answer cannot be used.
        AnsweredError: The policy failed after the answer had begun.
    """
    answer = await ask(policy, call)
    if isinstance(answer, Passthrough) and inquiry.streams_chat and _is_stream(answer):
        try:
            return await _pass_stream(answer, send, record)
        finally:
            await answer.close()
    completion, response = await read_whole(answer, inquiry)
    # Encoded before it is recorded, so that no turn is recorded whose answer cannot be sent.
    body, content_type = _encode_answer(inquiry, completion, response)
    await record(response, None)
    return functools.partial(answers.send_body, send, body, content_type=content_type)


async def ask(policy: Policy | None, call: Call) -> Mapping[str, JSON] | Passthrough:
    """Return the policy's answer.

    Raises:
        Refusal: There is no policy, or the policy refused or failed.
    """
    if policy is None:
        raise Refusal(400, "This runtime has no policy that could answer. Start it with policy=, or set runtime.policy")
    try:
        return await policy.answer(call)
    except PolicyError as error:
        raise _policy_refusal(error) from error
    except Exception as error:
        logger.exception("trajectory=<%s> | the policy raised", call.trajectory_id)
        raise Refusal(500, f"The policy raised {type(error).__name__}: {error}") from error


async def read_whole(answer: Mapping[str, JSON] | Passthrough, inquiry: Inquiry) -> tuple[Mapping[str, Any], bytes]:
    """Return the chat completion that a policy answered with, and the same as JSON.

    Raises:
        Refusal: An upstream server failed, or the answer cannot be written as JSON.
    """
    if not isinstance(answer, Passthrough):
        return answer, _encode_completion(answer, "policy's answer")
    try:
        received = b"".join([piece async for piece in answer.pieces])
    except PolicyError as error:
        raise _policy_refusal(error) from error
    finally:
        await answer.close()
    return _read_passed(answer, received, inquiry)


def _call(entry: Entry | None, inquiry: Inquiry) -> Call:
    return Call(
        request=inquiry.request,
        body=inquiry.body,
        stream=inquiry.streams_chat,
        trajectory_id=entry.trajectory_id if entry is not None else None,
        turn=entry.begun - 1 if entry is not None else 0,
    )


async def _forget(response: bytes, wire_response: bytes | None) -> None:
    """Record nothing: the call is untracked."""


def _policy_refusal(error: PolicyError) -> Refusal:
    seconds = error.retry_after_seconds
    return Refusal(error.status, str(error), retry_after=None if seconds is None else f"{seconds:g}")


def _read_passed(answer: Passthrough, body: bytes, inquiry: Inquiry) -> tuple[Mapping[str, Any], bytes]:
    """Return the completion that an upstream server answered with, and its JSON."""
    if answer.status >= 400:
        raise Refusal(
            answer.status,
            f"the upstream server answered {answer.status}",
            retry_after=answer.retry_after,
            body=(body, answer.content_type),
        )
    value: object = None
    try:
        if _is_stream(answer):
            if (parsed := chat.parse_stream(body)) is not None:
                value = chat.read_answer(parsed, inquiry.request)
                body = _encode_completion(value, "upstream server's answer")
        elif answer.status == 200:
            value = json.loads(body)
    except chat.StreamError as error:
        raise _stream_refusal(error) from error
    except (ValueError, RecursionError):
        pass  # no JSON, which is said below
    choices = value.get("choices") if isinstance(value, Mapping) else None
    if not (isinstance(choices, list) and choices and all(_has_message(choice) for choice in choices)):
        text = body[:300].decode("utf-8", "replace")
        raise Refusal(500, f"the upstream server answered {answer.status} with no chat completion: {text!r}")
    return cast("Mapping[str, Any]", value), body


def _is_stream(answer: Passthrough) -> bool:
    return answer.status == 200 and answer.content_type.startswith("text/event-stream")


def _has_message(choice: object) -> bool:
    return isinstance(choice, Mapping) and isinstance(choice.get("message"), Mapping)


async def _pass_stream(answer: Passthrough, send: Send, record: Record) -> Finish:
    """Pass a stream on as it arrives, but keep its end back until the turn is recorded."""
    await answers.start_stream(send, answer.content_type.encode("latin-1", "replace"))
    received = bytearray()
    sent = 0
    try:
        async for piece in answer.pieces:
            received += piece
            end = chat.end_to_send(received, sent)
            if end > sent:
                await answers.send_piece(send, bytes(received[sent:end]))
                sent = end
        stream = bytes(received)
        completion = chat.parse_stream(stream)
        if completion is None:
            raise chat.StreamError("it streamed no chat completion")
        await record(_encode_completion(completion, "upstream server's answer"), stream)
    except Exception as error:
        refusal = _stream_refusal(error)
        event = b"data: " + answers.error_body(refusal.message, refusal.code) + b"\n\n"
        await answers.send_piece(send, event, last=True)
        raise AnsweredError from refusal
    return functools.partial(answers.send_piece, send, stream[sent:], last=True)


def _stream_refusal(error: Exception) -> Refusal:
    if isinstance(error, Refusal):
        return error
    if isinstance(error, PolicyError):
        return _policy_refusal(error)
    if isinstance(error, chat.StreamError):
        return Refusal(500, f"the upstream server failed: {error}")
    logger.error("the local runtime cannot read the upstream server's stream", exc_info=error)
    return Refusal(500, f"The local runtime failed: {type(error).__name__}: {error}")


def _encode_completion(completion: Mapping[str, JSON], what: str) -> bytes:
    try:
        return encode(completion)
    except (TypeError, ValueError, RecursionError) as error:
        raise Refusal(500, f"The {what} cannot be written as JSON: {error}") from error


def _encode_answer(inquiry: Inquiry, completion: Mapping[str, Any], response: bytes) -> tuple[bytes, bytes]:
    """Return body and content type of the answer, in the form that the caller asked for.

    Args:
        inquiry: The call.
        completion: The chat completion.
        response: The same as JSON.

    Raises:
        Refusal: 500 if the completion cannot be brought into that form.
    """
    if not inquiry.stream and inquiry.responses_request is None:
        return response, answers.JSON_TYPE
    try:
        whole = chat.read_answer(completion, inquiry.request)
        if inquiry.responses_request is None:
            return chat.encode_stream(whole, include_usage=inquiry.include_usage), answers.EVENT_STREAM_TYPE
        answer = responses_api.from_chat(whole, inquiry.responses_request)
        if inquiry.stream:
            return responses_api.encode_stream(answer), answers.EVENT_STREAM_TYPE
        return encode(answer), answers.JSON_TYPE
    except ValueError as error:
        raise Refusal(500, f"The policy's answer cannot be used: {error}") from error
