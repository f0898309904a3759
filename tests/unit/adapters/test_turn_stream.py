"""The bytes of a streamed answer: read once, reported once, and read to their end for the sake of the connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from fakes import Answer, Recorded, Service, chat_answer, say

from aws_rft_sdk import RFTContext, wrap_model
from aws_rft_sdk.adapters import _answers
from aws_rft_sdk.adapters._answers import TurnStream
from aws_rft_sdk.adapters._http_library import http
from aws_rft_sdk.context import TurnState

from .models import by_client_args, one_turn


class Connection(http.AsyncByteStream, http.SyncByteStream):
    """A connection that goes on with the next answer after the end of this one."""

    def __init__(self, *parts: bytes | Exception) -> None:
        self.left = [*parts]
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        while self.left:
            part = self.left.pop(0)
            if isinstance(part, Exception):
                raise part
            yield part

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self:
            yield part

    def close(self) -> None:
        self.closed += 1

    async def aclose(self) -> None:
        self.closed += 1


def ended(parts: list[bytes | Exception], read: int | None = None, *, sync: bool = False) -> tuple[Any, Connection]:
    """Read some parts of a stream, None for all, and close it. Returns what was reported."""
    connection, reported = Connection(*parts), []

    async def main() -> None:
        stream = TurnStream(connection, reported.append)
        count = 0
        try:
            async for _ in stream:
                count += 1
                if count == read:
                    break
        except http.TransportError:
            pass
        await stream.aclose()

    def main_sync() -> None:
        stream = TurnStream(connection, reported.append)
        for count, _ in enumerate(stream, 1):
            if count == read:
                break
        stream.close()

    main_sync() if sync else asyncio.run(main())
    (state,) = reported
    return state, connection


@pytest.mark.parametrize(
    ("parts", "read", "state"),
    [
        ([b'data: {"a":1}\n\n', b"data: [DONE]\n\n"], 2, TurnState.ANSWERED),
        ([b'data: {"a":1}\n\ndata: [DO', b"NE]\n\n"], 2, TurnState.ANSWERED),
        ([b'data: {"a":1}\r\n\r\ndata:[DONE]\r\n\r\n'], 1, TurnState.ANSWERED),
        ([b'event: response.completed\ndata: {"response":1}\n\n'], 1, TurnState.ANSWERED),
        ([b'data: {"a":"data: [DONE]"}\n\n', b"more"], 1, TurnState.FAILED),
        ([b"event: response.completed_soon\n", b"more"], 1, TurnState.FAILED),
        ([b"no events at all"], None, TurnState.ANSWERED),
        ([b'data: {"a":1}\n\n', http.ReadError("cut")], None, TurnState.FAILED),
        ([b"event: response.completed\n", http.ReadError("cut")], None, TurnState.ANSWERED),  # the runtime has it
        ([b"data: [DONE]\n\n", http.ReadError("cut")], 1, TurnState.ANSWERED),
    ],
)
def test_stream_when_its_reader_leaves_then_the_turn_is_answered_if_the_last_event_was_read(
    parts: Any, read: Any, state: TurnState
) -> None:
    assert ended(parts, read)[0] is state
    if not any(isinstance(part, Exception) for part in parts):
        assert ended(parts, read, sync=True)[0] is state


def test_stream_when_its_reader_leaves_after_the_last_event_then_the_rest_is_read_and_otherwise_it_is_not() -> None:
    assert ended([b"data: [DONE]\n\n", b"\n"], 1)[1].left == []
    assert ended([b"data: 1\n\n", b"\n"], 1)[1].left == [b"\n"]


def test_stream_when_it_is_iterated_twice_then_the_connection_is_not_touched() -> None:
    """As openai 3 does after the last event, when the connection may serve another rollout already."""
    connection = Connection(b"data: [DONE]\n\n")

    async def main() -> None:
        stream = TurnStream(connection, lambda state: None)
        async for _ in stream:
            break
        await stream.aclose()
        connection.left.append(b"of another rollout")
        with pytest.raises(http.StreamConsumed):
            async for _ in stream:
                pass
        with pytest.raises(http.StreamConsumed):
            list(TurnStream.__iter__(stream))

    asyncio.run(main())
    assert connection.left == [b"of another rollout"]


def test_turn_when_the_answer_does_not_end_after_its_last_event_then_it_is_answered_and_not_waited_for(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_answers, "END_SECONDS", 0.0)
    gate = service.gate()

    def endless(request: Recorded) -> Answer:
        whole = chat_answer(request, say("ok"))

        def chunks() -> Iterator[bytes]:
            yield from whole.chunks or []
            gate.wait(30)

        return Answer(headers=whole.headers, chunks=chunks())  # type: ignore[arg-type] # it is iterated

    service.policy = endless
    with RFTContext.bind(service.payload()) as rollout:

        async def main() -> None:
            model = wrap_model(by_client_args(service.endpoint))
            for _ in range(2):
                await one_turn(model)

        asyncio.run(main())
        assert list(rollout.turn_states.values()) == [TurnState.ANSWERED] * 2
        assert not gate.is_set()
    assert len({request.connection for request in service.inference}) == 2
