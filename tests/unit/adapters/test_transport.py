"""What aiohttp does otherwise than httpx: idle connections, large bodies, errors that hold tokens, loops left open."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from fakes import Service, ga_payload
from strands.models.openai import OpenAIModel

from aws_rft_sdk import RFTContext, instrument, wrap_model
from aws_rft_sdk.adapters._loop_pool import _pools, loop_pool
from aws_rft_sdk.context import TurnCount

from .models import by_client_args, not_streaming, one_turn

BODY = b'{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[]}'
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY


class OneAnswerEach:
    """Answers one request on each connection, and then closes it without having said so."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.closed = threading.Semaphore(0)

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as requests:
                length = 0
                while (line := requests.readline().lower()) not in (b"\r\n", b""):
                    if line.startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                requests.read(length)
                connection.sendall(self._answer)
            self.closed.release()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextmanager
def one_answer_each(answer: bytes = WHOLE) -> Iterator[OneAnswerEach]:
    server = OneAnswerEach(answer)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()


def test_turn_when_the_connection_closed_while_the_loop_was_busy_then_another_one_is_used() -> None:
    with one_answer_each() as server, RFTContext.bind(ga_payload()) as rollout:

        async def main() -> None:
            async with instrument(openai.AsyncOpenAI(base_url=server.endpoint + "/v1", api_key="k")) as client:
                for _ in range(5):
                    await client.chat.completions.create(model="m", messages=[])
                    assert server.closed.acquire(timeout=30)  # as a handler that computes: the loop stands still

        asyncio.run(main())
        assert rollout.turns == TurnCount(5, answered=5)


def test_turn_when_its_body_is_large_then_nothing_warns(service: Service) -> None:
    text = "x" * 3_000_000
    with RFTContext.bind(service.payload()) as rollout, warnings.catch_warnings():
        warnings.simplefilter("error")
        model = wrap_model(by_client_args(service.endpoint))
        asyncio.run(one_turn(model, [{"role": "user", "content": [{"text": text}]}]))
        assert rollout.turns.answered == 1
    (request,) = service.inference
    assert text in request.body.decode()


def test_turn_when_the_answer_is_no_http_then_no_error_of_the_chain_holds_the_token() -> None:
    with one_answer_each(b"nonsense\r\n\r\n") as server, RFTContext.bind(ga_payload()) as rollout:
        model = OpenAIModel(model_id="m", client_args={"base_url": f"{server.endpoint}/v1", "api_key": "secret"})
        with pytest.raises(openai.APIConnectionError) as caught:
            asyncio.run(one_turn(wrap_model(model)))
        link: BaseException | None = caught.value
        while link is not None:
            assert "secret" not in repr(link)
            link = link.__cause__ or link.__context__
        assert rollout.turns == TurnCount(1, failed=1, unsure=1)


def test_turn_when_it_is_sent_then_no_thread_is_asked_for_the_platform(service: Service) -> None:
    class Threadless(asyncio.SelectorEventLoop):
        def run_in_executor(self, *args: Any) -> Any:
            raise AssertionError("a turn needs no thread")

    loop = Threadless()
    with RFTContext.bind(service.payload()) as rollout:
        loop.run_until_complete(one_turn(wrap_model(not_streaming(service.endpoint))))
        assert rollout.turns.answered == 1
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


LEFT = """
import asyncio, sys, threading
sys.path.insert(0, {tests!r})
from fakes import Service, ga_payload
from strands.models.openai import OpenAIModel
from aws_rft_sdk import RFTContext, wrap_model

async def turn(model):
    with RFTContext.bind(ga_payload("t1")):
        async for _ in model.stream([{{"role": "user", "content": [{{"text": "2+2?"}}]}}]):
            pass

service = Service()
service.__enter__()
client_args = dict(api_key="k", base_url=f"{{service.endpoint}}/v1")
model = wrap_model(OpenAIModel(model_id="default", stream=False, client_args=client_args))
loop = asyncio.new_event_loop()
if {how!r} == "running":
    threading.Thread(target=loop.run_forever, daemon=True).start()
    asyncio.run_coroutine_threadsafe(turn(model), loop).result()
else:
    loop.run_until_complete(turn(model))
    if {how!r} == "closed":
        loop.close()
service.__exit__(None, None, None)
print("done")
"""


@pytest.mark.parametrize("how", ["running", "open", "closed"])
def test_connections_when_their_loop_is_never_shut_down_then_nothing_is_said_about_them(
    how: str, tmp_path: Path
) -> None:
    script = tmp_path / "left.py"
    script.write_text(LEFT.format(tests=str(Path(__file__).parents[2]), how=how))
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert (result.stdout, result.stderr) == ("done\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_loop_pool_when_the_process_forks_then_the_child_has_none_and_the_parent_keeps_its_own(
    service: Service,
) -> None:
    async def main() -> None:
        pool = await loop_pool()
        await pool.post(f"{service.endpoint}/x")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: there are threads
            child = os.fork()
        if child == 0:
            os._exit(len(_pools))
        assert os.waitpid(child, 0)[1] == 0  # noqa: ASYNC222 - the child only exits
        await pool.post(f"{service.endpoint}/x")

    asyncio.run(main())
    assert len({request.connection for request in service.requests}) == 1
