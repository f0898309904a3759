"""A load generator that leaves the processor to the server: HTTP/1.1 over bare protocols, closed loop."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import urlsplit


class _Connection(asyncio.Protocol):
    """Sends one request after the other; the next one when the answer before it is whole."""

    def __init__(self, requests: Iterator[bytes], done: Callable[[], None]) -> None:
        self._requests = requests
        self._done = done
        self._received = b""
        self.problem = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def begin(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self._transport.close()
        else:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._received[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0])
        if len(self._received) < end + 4 + length:
            return
        if not head.startswith(b"http/1.1 200"):
            self.problem = self._received[:500].decode("latin-1")
            self._requests = iter(())
        self._received = b""
        self.begin()

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None or next(self._requests, None) is not None:
            self.problem = self.problem or f"the server hung up: {error}"
        self._done()


async def send_all(url: str, scripts: Sequence[Sequence[bytes]]) -> float:
    """Send each script over a connection of its own, all at once, and return the seconds that took.

    Raises:
        RuntimeError: A request was not answered with 200.
    """
    loop = asyncio.get_running_loop()
    parts = urlsplit(url)
    ended = asyncio.Event()
    open_connections = len(scripts)

    def done() -> None:
        nonlocal open_connections
        open_connections -= 1
        if open_connections == 0:
            ended.set()

    connections = []
    for script in scripts:
        connection = _Connection(iter(script), done)
        await loop.create_connection(functools.partial(_same, connection), parts.hostname or "", parts.port or 80)
        connections.append(connection)
    began = time.perf_counter()
    for connection in connections:
        connection.begin()
    await ended.wait()
    seconds = time.perf_counter() - began
    problem = next((connection.problem for connection in connections if connection.problem), None)
    if problem is not None:
        raise RuntimeError(f"{url}: {problem}")
    return seconds


def _same(connection: _Connection) -> _Connection:
    return connection


def post(url: str, path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """Return a request as it goes over the wire."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {urlsplit(url).netloc}", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body
