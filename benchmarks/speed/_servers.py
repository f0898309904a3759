"""Servers for the measurements, each in a process of its own. Also the script that such a process runs.

    python benchmarks/speed/_servers.py canned | echo | runtime DB sync|async|UPSTREAM_URL [CAPTURE]

The process prints its port and serves until its standard input is closed.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ANSWER = "The result of 40 + 2 is 42."
_BASE = {"id": "chatcmpl-1", "created": 1, "model": "default"}
_USAGE = {"prompt_tokens": 100, "completion_tokens": 40, "total_tokens": 140}
TOOL_TURNS = 2
"""How often the canned policy calls a tool before it answers, when the agent has one."""


def command_of(*arguments: str) -> list[str]:
    """Return the command that serves what the arguments name."""
    return [sys.executable, __file__, *arguments]


@contextmanager
def serving(*arguments: str) -> Iterator[str]:
    """Run one of the servers for the body of a `with`; gives its base URL."""
    command = command_of(*arguments)
    # A server that cannot start says why on standard error.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        port = process.stdout.readline().strip()
        if not port:
            raise RuntimeError(f"{' '.join(arguments)} did not start")
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.stdin.close()
            process.wait(30)


# --- canned answers over a bare protocol -----------------------------------------------------------------------------


def _whole(body: bytes, content_type: str = "application/json") -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _events(*events: dict[str, Any]) -> bytes:
    pieces = [b"data: " + json.dumps({**_BASE, "object": "chat.completion.chunk", **e}).encode() for e in events]
    chunks = [piece + b"\n\n" for piece in (*pieces, b"data: [DONE]")]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def _chat(message: dict[str, Any], finish: str) -> dict[bool, bytes]:
    choice = {"index": 0, "message": message, "finish_reason": finish}
    completion = {**_BASE, "object": "chat.completion", "choices": [choice], "usage": _USAGE}
    if message["content"] is None:
        deltas = [{**message, "tool_calls": [{"index": 0, **call} for call in message["tool_calls"]]}]
    else:
        words = [word + " " for word in message["content"].split()]
        deltas = [{"role": "assistant", "content": ""}, *({"content": word} for word in words)]
    events: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    events += [{"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}, {"choices": [], "usage": _USAGE}]
    return {False: _whole(json.dumps(completion).encode()), True: _events(*events)}


_CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 40, "b": 2}'}}
_FINAL = _chat({"role": "assistant", "content": ANSWER}, "stop")
_TOOL = _chat({"role": "assistant", "content": None, "tool_calls": [_CALL]}, "tool_calls")
_EMPTY = _whole(b"{}")


def _canned(path: bytes, body: bytes) -> bytes:
    if not path.endswith(b"/chat/completions"):
        return _EMPTY
    request = json.loads(body)
    results = sum(message.get("role") == "tool" for message in request["messages"])
    answers = _TOOL if request.get("tools") and results < TOOL_TURNS else _FINAL
    return answers[bool(request.get("stream"))]


class _Canned(asyncio.Protocol):
    """Just enough HTTP/1.1 for well-behaved clients: bodies with a length, no pipelining."""

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._received[:end]
        lower = head.lower()
        at = lower.find(b"content-length:")
        length = int(lower[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        body = self._received[end + 4 :]
        if len(body) < length:
            return
        self._received = b""
        self._transport.write(_canned(head.split(b" ", 2)[1], body))


async def _serve_canned() -> None:
    # asyncio makes the socket itself, so it turns Nagle's algorithm off.
    server = await asyncio.get_running_loop().create_server(_Canned, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


# --- a bare Starlette echo -------------------------------------------------------------------------------------------


def _serve_echo() -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from aws_rft_sdk._listening import listen

    async def echo(request: Request) -> Response:
        return Response(await request.body(), media_type="application/json")

    app = Starlette(routes=[Route("/v1/chat/completions", echo, methods=["POST"])])
    listener = listen(0, "127.0.0.1")
    # As the local runtime is served, so that only what happens behind the server differs.
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, lifespan="off", ws="none")
    config.load_app()
    server = uvicorn.Server(config)
    print(listener.getsockname()[1], flush=True)
    _when_closed(lambda: setattr(server, "should_exit", True))
    server.run(sockets=[listener])


def _when_closed(stop: Any) -> None:
    def wait() -> None:
        sys.stdin.read()
        stop()

    threading.Thread(target=wait, daemon=True).start()


# --- the local runtime -----------------------------------------------------------------------------------------------


def _serve_runtime(db: str, policy: str, capture: Any = "full") -> None:
    from aws_rft_sdk import LocalRuntime
    from aws_rft_sdk.runtime import UpstreamPolicy

    def answer(request: dict[str, Any]) -> str:
        return ANSWER

    async def answer_later(request: dict[str, Any]) -> str:
        return ANSWER

    chosen: Any = {"sync": answer, "async": answer_later}.get(policy) or UpstreamPolicy(f"{policy}/v1")
    with LocalRuntime(policy=chosen, db=db, capture=capture) as runtime:
        print(runtime.endpoint.rpartition(":")[2], flush=True)
        sys.stdin.read()


def main() -> None:
    """Serve what the arguments name."""
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    kind, *rest = sys.argv[1:]
    if kind == "canned":
        asyncio.run(_serve_canned())
    elif kind == "echo":
        _serve_echo()
    else:
        _serve_runtime(*rest)


if __name__ == "__main__":
    main()
