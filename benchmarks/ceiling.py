"""How many rollouts a second one local runtime serves, and how large its database becomes.

    python -m benchmarks.ceiling [--rollouts 1000] [--turns 10] [--connections 64] [--capture full,last,none]

Bare HTTP clients play whole rollouts: start, the turns of a conversation that grows, completion, reward, a look at
the outcome. A turn adds about 1.2 KB to the conversation, on top of 2 KB of system prompt and tools. The clients and
the runtime are two processes. The runtime can use little more than one core. If other work slows the machine down,
look at the rollouts per second of the runtime's processor time: that is the ceiling of a core of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import sqlite3
import subprocess
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from benchmarks.speed._servers import ANSWER, command_of

_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Look something up in the records of the customer. " * 4,
            "parameters": {"type": "object", "properties": {"order_id": {"type": "string"}}},
        },
    }
    for name in ("look_up_order", "look_up_customer")
]
_spans = itertools.count()


class Figures(NamedTuple):
    """What one way to capture came to."""

    capture: str
    seconds: float
    cpu_seconds: float
    rollouts: int
    turns: int
    database_bytes: int


class _Client:
    """One connection that sends one request after the other."""

    def __init__(self, url: str) -> None:
        self._host = urlsplit(url).netloc

    async def open(self) -> None:
        host, port = self._host.split(":")
        self._reader, self._writer = await asyncio.open_connection(host, int(port))

    async def call(self, method: str, path: str, body: bytes = b"", headers: str = "") -> Any:
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        head_bytes = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head_bytes.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        answer = await self._reader.readexactly(length)
        if not head_bytes.startswith(b"http/1.1 200"):
            raise RuntimeError(f"{method} {path}: {head_bytes[:20]!r} {answer[:300]!r}")
        return answer

    def close(self) -> None:
        self._writer.close()


def conversation(turns: int) -> list[bytes]:
    """Return the bodies of the requests of one rollout."""
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "You help customers of a shop, politely and briefly. " * 20},
        {"role": "user", "content": "Where is my order?"},
    ]
    bodies = []
    for turn in range(turns):
        bodies.append(json.dumps({"model": "default", "messages": messages, "tools": _TOOLS}).encode())
        messages = [
            *messages,
            {"role": "assistant", "content": f"{turn}: {ANSWER} " * 18},
            {"role": "tool", "tool_call_id": f"call_{turn}", "content": f"order {turn} was sent on Monday. " * 20},
        ]
    return bodies


async def _play(client: _Client, bodies: list[bytes]) -> None:
    payload = json.loads(await client.call("POST", "/local/rollouts", b'{"prompt": "Where is my order?"}'))
    job, trajectory = payload["metadata"]["jobArn"], payload["metadata"]["rolloutId"]
    tracking = f"X-Rft-Job-Arn: {job}\r\nX-Trajectory-Id: {trajectory}\r\n"
    for body in bodies:
        headers = f"{tracking}X-Span-Id: {next(_spans)}\r\n"
        await client.call("POST", "/v1/chat/completions", body, headers)
    ids = {"JobArn": job, "TrajectoryId": trajectory}
    await client.call("POST", "/complete-rollout", json.dumps({**ids, "ClientToken": "c"}).encode())
    await client.call("POST", "/update-reward", json.dumps({**ids, "ClientToken": "r", "Rewards": [1.0]}).encode())
    await client.call("GET", f"/local/rollouts/{trajectory}")


async def _load(url: str, rollouts: int, bodies: list[bytes], connections: int) -> float:
    clients = [_Client(url) for _ in range(connections)]
    for client in clients:
        await client.open()
    numbers = iter(range(rollouts))

    async def work(client: _Client) -> None:
        for _ in numbers:
            await _play(client, bodies)

    began = time.perf_counter()
    await asyncio.gather(*map(work, clients))
    seconds = time.perf_counter() - began
    for client in clients:
        client.close()
    return seconds


def measure(capture: str, rollouts: int, turns: int, connections: int, folder: Path | None = None) -> Figures:
    """Serve so many rollouts with a fresh runtime, and return what it took."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        database = Path(place) / "runs.db"
        command = command_of("runtime", str(database), "async", capture)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
            bodies = conversation(turns)
            asyncio.run(_load(url, connections, bodies, connections))  # warm up
            before = _cpu_seconds(server.pid)
            seconds = asyncio.run(_load(url, rollouts, bodies, connections))
            cpu_seconds = _cpu_seconds(server.pid) - before
            server.stdin.close()
            server.wait(60)
        with closing(sqlite3.connect(database)) as connection:
            (recorded,) = connection.execute("SELECT count(*) FROM trajectories WHERE rewards IS NOT NULL").fetchone()
        assert recorded == rollouts + connections, f"{recorded} rollouts have a reward"
        size = database.stat().st_size * rollouts // recorded
    return Figures(capture, seconds, cpu_seconds, rollouts, turns, size)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def show(figures: list[Figures]) -> str:
    """Return a table in Markdown."""
    lines = [
        "| `--capture` | rollouts/s | requests/s | rollouts per CPU second of the runtime | MB per 1,000 rollouts |",
        "|---|---|---|---|---|",
    ]
    for item in figures:
        calls = item.rollouts * (item.turns + 4)
        lines.append(
            f"| `{item.capture}` | {item.rollouts / item.seconds:.0f} | {calls / item.seconds:,.0f} "
            f"| {item.rollouts / item.cpu_seconds:.0f} | {item.database_bytes / item.rollouts / 1000:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ceiling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rollouts", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--capture", default="full,last,none")
    parser.add_argument("--folder", type=Path, help="where databases are put: on the disk that is to be measured")
    options = parser.parse_args()
    figures = [
        measure(capture, options.rollouts, options.turns, options.connections, options.folder)
        for capture in options.capture.split(",")
    ]
    print(show(figures))


if __name__ == "__main__":
    main()
