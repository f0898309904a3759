"""One transport for each request in progress: reused, bounded, closed when nobody has used it for a while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from aws_rft_sdk.adapters import _spread
from aws_rft_sdk.adapters._loop_pool import http
from aws_rft_sdk.adapters._spread import spread_class


class FakeTransport:
    """Answers at once, with a body that is read when it is closed; fails when the request says so."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.closed = False

    async def handle_async_request(self, request: Any) -> Any:
        self.requests.append(request.url.path)
        if request.url.path == "/broken":
            raise http.ConnectError("no")

        class Body(http.AsyncByteStream):  # type: ignore[misc, name-defined] # the library is found at run time
            async def __aiter__(self) -> AsyncIterator[bytes]:
                yield b"{}"

        return http.Response(200, stream=Body())

    async def aclose(self) -> None:
        self.closed = True


def spread(made: list[FakeTransport], *, max_connections: int = 10, max_idle: int = 5) -> Any:
    def make() -> FakeTransport:
        made.append(FakeTransport())
        return made[-1]

    return spread_class(http)(make, http, max_connections, max_idle)


def request(path: str = "/", host: str = "one", pool_seconds: float | None = None) -> Any:
    return http.Request("POST", f"http://{host}{path}", extensions={"timeout": {"pool": pool_seconds}})


def test_requests_when_one_after_the_other_then_one_transport_serves_a_host() -> None:
    made: list[FakeTransport] = []

    async def main() -> None:
        transport = spread(made)
        for host in ("one", "one", "two", "one"):
            await (await transport.handle_async_request(request(host=host))).aclose()
        await transport.aclose()

    asyncio.run(main())
    assert [len(item.requests) for item in made] == [3, 1]
    assert all(item.closed for item in made)


def test_requests_when_at_once_then_each_has_its_own_and_few_are_kept() -> None:
    made: list[FakeTransport] = []

    async def main() -> None:
        transport = spread(made, max_idle=2)
        answers = [await transport.handle_async_request(request()) for _ in range(4)]
        for answer in answers:
            await answer.aclose()
            await answer.aclose()  # counts once
        assert sum(item.closed for item in made) == 2
        await (await transport.handle_async_request(request())).aclose()
        await transport.aclose()

    asyncio.run(main())
    assert len(made) == 4


def test_requests_when_too_many_then_the_next_waits_or_gives_up() -> None:
    async def main() -> None:
        transport = spread([], max_connections=1)
        first = await transport.handle_async_request(request())
        with pytest.raises(http.PoolTimeout):
            await transport.handle_async_request(request(pool_seconds=0.0))
        waiting = asyncio.ensure_future(transport.handle_async_request(request()))
        await first.aclose()
        await (await waiting).aclose()

    asyncio.run(main())


def test_requests_when_one_fails_then_its_place_is_free_again() -> None:
    async def main() -> None:
        transport = spread([], max_connections=1)
        for _ in range(2):
            with pytest.raises(http.ConnectError):
                await transport.handle_async_request(request("/broken"))
        await (await transport.handle_async_request(request())).aclose()

    asyncio.run(main())


def test_transports_when_unused_for_a_while_then_they_close(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[FakeTransport] = []
    now = 0.0
    monkeypatch.setattr(_spread, "time", SimpleNamespace(monotonic=lambda: now))

    async def main() -> None:
        nonlocal now
        transport = spread(made)
        answers = [await transport.handle_async_request(request()) for _ in range(3)]
        for answer in answers:
            await answer.aclose()
        now = 60.0
        await (await transport.handle_async_request(request())).aclose()

    asyncio.run(main())
    assert [item.closed for item in made] == [True, True, False]


def test_transports_when_several_close_at_once_then_none_of_the_answers_fails() -> None:
    """While one is being closed, another answer of the same origin may end, or a request may take what is idle."""
    made: list[FakeTransport] = []

    async def main() -> None:
        gate = asyncio.Event()

        class Slow(FakeTransport):
            async def aclose(self) -> None:
                await gate.wait()
                await super().aclose()

        def make() -> FakeTransport:
            made.append(Slow())
            return made[-1]

        transport = spread_class(http)(make, http, 10, 0)
        answers = [await transport.handle_async_request(request()) for _ in range(3)]
        closing = [asyncio.ensure_future(answer.aclose()) for answer in answers]
        await asyncio.sleep(0)  # all of them wait for the gate
        gate.set()
        await asyncio.gather(*closing)
        assert (transport._idle, transport._idle_count, transport._all) == ({}, 0, set())

    asyncio.run(main())
    assert [transport.closed for transport in made] == [True] * 3
