"""How many turns a second the local runtime captures: against a bare echo, and against another gateway."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from aws_rft_sdk import wire
from benchmarks.speed._load import post, send_all
from benchmarks.speed._measure import Effort, Group, interleave, ratio
from benchmarks.speed._servers import ANSWER, serving

CONNECTIONS = 64
_PATH = "/v1/chat/completions"
_START_SECONDS = 30.0
_TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
    },
}
BODY = json.dumps(
    {
        "model": "default",
        "messages": [
            {"role": "system", "content": "Answer with the number alone. " * 8},
            {"role": "user", "content": "What is 40 + 2?"},
            {"role": "assistant", "content": ANSWER},
            {"role": "user", "content": "And twice that?"},
        ],
        "tools": [_TOOL],
        "temperature": 1.0,
        "top_p": 1.0,
    }
).encode()

_spans = itertools.count()

Scripts = Callable[[], Sequence[Sequence[bytes]]]


def captured_requests(effort: Effort) -> Group:
    """Requests a second that are answered once they are durable, against an echo that only answers."""
    each = effort.count(40)
    with tempfile.TemporaryDirectory(dir=effort.folder) as folder, contextlib.ExitStack() as servers:
        echo = servers.enter_context(serving("echo"))
        rates = {"echo": _rate(echo, _plain(echo, each))}
        for policy in ("async", "sync"):
            url = servers.enter_context(serving("runtime", str(Path(folder) / f"{policy}.db"), policy))
            rates[policy] = _rate(url, _tracked(url, each))
        figures = interleave(rates, effort.rounds)
    return Group(
        [
            ratio(
                f"local runtime, {policy} policy, database on disk",
                figures["echo"],
                figures[policy],
                unit="requests/s",
                target=0.4,
                bound="at least",
            )
            for policy in ("async", "sync")
        ],
        [f"{CONNECTIONS} connections, bodies of {len(BODY):,} bytes"],
    )


def against_gateway(effort: Effort) -> Group:
    """The same upstream behind the local runtime and behind rllm-model-gateway, both with SQLite on disk."""
    if shutil.which(effort.gateway) is None:
        return Group(notes=[f"{effort.gateway} is not installed, so nothing was compared with it; see --gateway"])
    each = effort.count(10)
    with tempfile.TemporaryDirectory(dir=effort.folder) as name, contextlib.ExitStack() as servers:
        folder = Path(name)
        upstream = servers.enter_context(serving("canned"))
        ours = servers.enter_context(serving("runtime", str(folder / "ours.db"), upstream))
        gateway = servers.enter_context(_gateway(effort.gateway, upstream, folder / "gateway.db"))
        answered: list[float] = []

        def captured_by_gateway() -> float:
            session, scripts = _session(gateway, each)
            began = time.perf_counter()
            asyncio.run(send_all(gateway, scripts))
            answered.append(CONNECTIONS * each / (time.perf_counter() - began))
            # It writes down after it has answered: what is not written down yet is not captured.
            _wait_until_written(gateway, session, CONNECTIONS * each)
            return CONNECTIONS * each / (time.perf_counter() - began)

        figures = interleave({"gateway": captured_by_gateway, "ours": _rate(ours, _tracked(ours, each))}, effort.rounds)
    common: dict[str, Any] = {"unit": "requests/s", "bound": "at least"}
    return Group(
        [
            ratio(
                "UpstreamPolicy against rllm-model-gateway, until captured",
                figures["gateway"],
                figures["ours"],
                target=3.0,
                **common,
            ),
            ratio(
                "UpstreamPolicy against rllm-model-gateway, until answered",
                answered[1:],
                figures["ours"],
                target=None,
                note="ours are durable when they are answered, its are not",
                **common,
            ),
        ],
        [f"{CONNECTIONS} connections, bodies of {len(BODY):,} bytes"],
    )


# --- requests --------------------------------------------------------------------------------------------------------


def _rate(url: str, scripts: Scripts) -> Callable[[], float]:
    def run() -> float:
        made = scripts()
        return sum(map(len, made)) / asyncio.run(send_all(url, made))

    return run


def _plain(url: str, each: int) -> Scripts:
    return lambda: [[post(url, _PATH, BODY, {})] * each] * CONNECTIONS


def _tracked(url: str, each: int) -> Scripts:
    """Return what makes the turns of as many new rollouts as there are connections, each under its own span id."""

    def scripts() -> list[list[bytes]]:
        made = []
        for _ in range(CONNECTIONS):
            rollout = requests.post(f"{url}/local/rollouts", json={"prompt": "What is 40 + 2?"}, timeout=30).json()
            ids = rollout["metadata"]["jobArn"], rollout["metadata"]["rolloutId"]
            made.append(
                [post(url, _PATH, BODY, wire.inference_headers(*ids, f"span-{next(_spans)}")) for _ in range(each)]
            )
        return made

    return scripts


# --- the other gateway -----------------------------------------------------------------------------------------------


@contextmanager
def _gateway(command: str, upstream: str, db: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["--host", "127.0.0.1", "--port", str(port), "--db-path", str(db), "--store", "sqlite"]
    # It would write a line for each request; without that it is faster.
    arguments += ["--log-level", "error", "--worker", f"{upstream}/v1"]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen([command, *arguments], stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not _is_up(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command} did not start")
                time.sleep(0.05)
            yield url
        finally:
            process.terminate()


def _is_up(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=5).ok
    except requests.ConnectionError:
        return False


def _session(url: str, each: int) -> tuple[str, list[list[bytes]]]:
    """Return a session that is new, and requests within it."""
    session = f"round-{next(_spans)}"
    return session, [[post(url, f"/sessions/{session}{_PATH}", BODY, {})] * each] * CONNECTIONS


def _wait_until_written(url: str, session: str, count: int) -> None:
    while requests.get(f"{url}/sessions/{session}", timeout=60).json()["trace_count"] < count:
        time.sleep(0.02)
