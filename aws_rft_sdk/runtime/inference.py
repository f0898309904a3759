"""Inference calls: tell the trajectory, ask the policy, record the turn, answer - in this order.

A turn is durable before the last byte of its answer leaves. A call with a span id that was answered before is answered
from the record; one whose span id is still being answered waits for that answer. What the policy gives after the
trajectory was sealed is refused and not recorded.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from starlette.types import Send

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runtime import answers, chat, responses_api
from aws_rft_sdk.runtime import state as machine
from aws_rft_sdk.runtime.answers import Refusal, encode
from aws_rft_sdk.runtime.decode import Headers, Tracking, read_chat_request, read_stream_flag, read_tracking
from aws_rft_sdk.runtime.policies import Call, Passthrough, Policy, PolicyError
from aws_rft_sdk.runtime.records import TurnRow
from aws_rft_sdk.runtime.trajectories import Entry, InFlight, Trajectories
from aws_rft_sdk.wire import SAMPLE_STREAM_PATH

logger = logging.getLogger(__name__)

RESPONSES_PATH = "/v1/responses"

_DONE_MARK = b"data: [DONE]"
_NOT_COMPARED = ("stream", "stream_options")

Finish = Callable[[], Awaitable[None]]


class AnsweredError(Exception):
    """The call failed after its answer had begun; the failure was told in the stream."""


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
    """What was asked in the form of the Responses API; None for a chat request."""
    wire_body: bytes | None
    """The body as it arrived, if it was not the chat request."""

    @classmethod
    def read(cls, path: str, headers: Headers, body: bytes, *, strict: bool) -> Inquiry:
        """Decode a call.

        Raises:
            Refusal: 400, the message names the field.
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
    def include_usage(self) -> bool:
        """Whether the stream is to end with the token counts."""
        options = self.request.get("stream_options")
        return isinstance(options, Mapping) and options.get("include_usage") is True


class Inference:
    """Serves inference calls.

    Args:
        trajectories: The trajectories.
        policy: Who answers; may be replaced at any time, None for nobody.
        strict: Whether calls outside of known trajectories are refused.
    """

    def __init__(self, trajectories: Trajectories, policy: Policy | None, *, strict: bool) -> None:
        self._policies = [] if policy is None else [policy]
        self._policy = policy
        self.untracked_calls = 0
        """How many calls did not say which trajectory they belong to."""
        self._trajectories = trajectories
        self._strict = strict

    @property
    def policy(self) -> Policy | None:
        """Who answers at the moment."""
        return self._policy

    def set_policy(self, policy: Policy | None) -> None:
        """Replace who answers; calls in progress keep the one that they were handed to."""
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
            Refusal: The call is to be answered with an error.
            AnsweredError: It failed and is answered already.
        """
        inquiry = Inquiry.read(path, headers, body, strict=self._strict)
        entry = await self._find(inquiry.tracking)
        if entry is None:
            finish = await self._sample(None, inquiry, send)
            await finish()
            return
        span_id = inquiry.tracking.span_id
        known = entry.spans.get(span_id) if span_id is not None else None
        if known is not None and await self._repeat(entry, known, inquiry, send):
            return
        machine.check_open(entry.state, entry.trajectory_id)
        entry.begun += 1
        try:
            if span_id is None:
                _, finish = await self._sample_turn(entry, inquiry, send)
            else:
                finish = await self._sample_span(entry, span_id, inquiry, send)
        except BaseException:
            entry.begun -= 1
            raise
        await finish()

    async def _sample_span(self, entry: Entry, span_id: str, inquiry: Inquiry, send: Send) -> Finish:
        flight = entry.spans[span_id] = InFlight(inquiry.body)
        try:
            index, finish = await self._sample_turn(entry, inquiry, send)
        except BaseException as error:
            del entry.spans[span_id]
            flight.fail(error.__cause__ if isinstance(error, AnsweredError) and error.__cause__ else error)
            raise
        entry.spans[span_id] = index
        flight.finish(index)
        return finish

    async def _find(self, tracking: Tracking) -> Entry | None:
        if tracking.job_arn is None or tracking.trajectory_id is None:
            self.untracked_calls += 1
            if self._strict:
                raise Refusal(
                    400,
                    f"The call is not tracked: it has no header {' and none '.join(tracking.missing)}; "
                    "is the model wrapped, and is a rollout in progress where it is called?",
                )
            return None
        if self._strict or self._trajectories.get(tracking.trajectory_id) is not None:
            return self._trajectories.find(tracking.trajectory_id, tracking.job_arn)
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
        if turn.wire_response is not None and inquiry.stream and inquiry.responses_request is None:
            await answers.send_body(send, turn.wire_response, content_type=answers.EVENT_STREAM_TYPE)
        else:
            await _send_completion(send, inquiry, json.loads(turn.response), turn.response)
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

    # --- new turns ---------------------------------------------------------------------------------------------------

    async def _sample_turn(self, entry: Entry, inquiry: Inquiry, send: Send) -> tuple[int, Finish]:
        started_at, started = time.time(), time.perf_counter()
        indexes: list[int] = []

        async def record(response: bytes, wire_response: bytes | None) -> None:
            turn = TurnRow(
                key=0,
                span_id=inquiry.tracking.span_id,
                path=inquiry.path,
                started_at_seconds=started_at,
                duration_seconds=time.perf_counter() - started,
                request=inquiry.body,
                response=response,
                wire_request=inquiry.wire_body,
                wire_response=wire_response,
            )
            indexes.append(await self._trajectories.add_turn(entry, turn))

        finish = await self._sample(entry, inquiry, send, record)
        return indexes[0], finish

    async def _sample(
        self,
        entry: Entry | None,
        inquiry: Inquiry,
        send: Send,
        record: Callable[[bytes, bytes | None], Awaitable[None]] | None = None,
    ) -> Finish:
        """Ask the policy, have the turn recorded, and return what sends the rest of the answer."""
        answer = await self._ask(entry, inquiry)
        if isinstance(answer, Passthrough):
            try:
                if answer.status == 200 and inquiry.stream and answer.content_type.startswith("text/event-stream"):
                    return await _pass_stream(answer, send, record)
                body = b"".join([piece async for piece in answer.pieces])
            except PolicyError as error:
                raise _policy_refusal(error) from error
            finally:
                await answer.close()
            completion, response = _read_passed(answer, body)
        else:
            completion = answer
            try:
                response = encode(answer)
            except (TypeError, ValueError) as error:
                raise Refusal(500, f"The policy's answer cannot be written as JSON: {error}") from error
        if record is not None:
            await record(response, None)
        return lambda: _send_completion(send, inquiry, completion, response)

    async def _ask(self, entry: Entry | None, inquiry: Inquiry) -> Mapping[str, JSON] | Passthrough:
        policy = self._policy
        if policy is None:
            raise Refusal(400, "This runtime has no policy, so nobody answers inference; start it with policy=")
        call = Call(
            request=inquiry.request,
            body=inquiry.body,
            stream=inquiry.stream and inquiry.responses_request is None,
            trajectory_id=entry.trajectory_id if entry is not None else None,
            turn=entry.begun - 1 if entry is not None else 0,
        )
        try:
            return await policy.answer(call)
        except PolicyError as error:
            raise _policy_refusal(error) from error
        except Exception as error:
            logger.exception("trajectory=<%s> | the policy raised", call.trajectory_id)
            raise Refusal(500, f"The policy raised {type(error).__name__}: {error}") from error


def _policy_refusal(error: PolicyError) -> Refusal:
    seconds = error.retry_after_seconds
    return Refusal(error.status, str(error), retry_after=None if seconds is None else f"{seconds:g}")


def _read_passed(answer: Passthrough, body: bytes) -> tuple[Mapping[str, Any], bytes]:
    if answer.status >= 400:
        raise Refusal(
            answer.status,
            f"the upstream server answered {answer.status}",
            retry_after=answer.retry_after,
            body=(body, answer.content_type),
        )
    completion: object = None
    if answer.status == 200 and answer.content_type.startswith("text/event-stream"):
        completion = chat.parse_stream(body)
        body = encode(completion)
    elif answer.status == 200:
        try:
            completion = json.loads(body)
        except ValueError:
            pass
    if not isinstance(completion, Mapping) or not isinstance(completion.get("choices"), list):
        raise Refusal(500, f"the upstream server answered {answer.status} with something that is no chat completion")
    return completion, body


async def _pass_stream(
    answer: Passthrough, send: Send, record: Callable[[bytes, bytes | None], Awaitable[None]] | None
) -> Finish:
    """Hand a stream on as it comes, but keep its end back until the turn is recorded."""
    await answers.start_stream(send, answer.content_type.encode("latin-1", "replace"))
    received = bytearray()
    sent = 0
    try:
        async for piece in answer.pieces:
            received += piece
            end = _end_to_send(received, sent)
            if end > sent:
                await answers.send_piece(send, bytes(received[sent:end]))
                sent = end
        stream = bytes(received)
        completion = chat.parse_stream(stream)
        if completion is None:
            raise Refusal(500, "the upstream server streamed no chat completion")
        if record is not None:
            await record(encode(completion), stream)
    except (Refusal, PolicyError) as error:
        refusal = _policy_refusal(error) if isinstance(error, PolicyError) else error
        event = b"data: " + answers.error_body(refusal.message, refusal.code) + b"\n\n"
        await answers.send_piece(send, event, last=True)
        raise AnsweredError from refusal
    return lambda: answers.send_piece(send, stream[sent:], last=True)


def _end_to_send(received: bytearray, sent: int) -> int:
    """Return up to where the stream may be sent: before the closing mark, or before what may become one."""
    mark = received.find(_DONE_MARK, sent)
    if mark >= 0:
        return mark
    for length in range(min(len(_DONE_MARK) - 1, len(received) - sent), 0, -1):
        if received.endswith(_DONE_MARK[:length]):
            return len(received) - length
    return len(received)


async def _send_completion(send: Send, inquiry: Inquiry, completion: Mapping[str, Any], response: bytes) -> None:
    if inquiry.responses_request is not None:
        answer = responses_api.from_chat(completion, inquiry.responses_request)
        if inquiry.stream:
            body, content_type = responses_api.encode_stream(answer), answers.EVENT_STREAM_TYPE
        else:
            body, content_type = encode(answer), answers.JSON_TYPE
    elif inquiry.stream:
        body = chat.encode_stream(completion, include_usage=inquiry.include_usage)
        content_type = answers.EVENT_STREAM_TYPE
    else:
        body, content_type = response, answers.JSON_TYPE
    await answers.send_body(send, body, content_type=content_type)
