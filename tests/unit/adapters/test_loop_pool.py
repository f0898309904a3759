"""One connection pool for each event loop, reused over turns and rollouts, closed with its loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from fakes import Answer, Service, ga_payload

from aws_rft_sdk import RFTContext, wrap_model
from aws_rft_sdk.adapters import _loop_pool
from aws_rft_sdk.adapters._answers import after_error
from aws_rft_sdk.adapters._http_library import http
from aws_rft_sdk.adapters._loop_pool import _pools, loop_pool
from aws_rft_sdk.context import TurnState

from .models import by_client, by_client_args, litellm_model, not_streaming, one_turn, responses_model

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # LiteLLM's own types


def connections_of_turns(model: Any, service: Service, turns: int = 6) -> int:
    async def main() -> None:
        for i in range(turns):
            with RFTContext.bind(ga_payload(f"t{i}")):
                await one_turn(model)

    asyncio.run(main())
    assert len(service.inference) == turns
    return len({request.connection for request in service.inference})


def test_turns_when_not_streamed_then_one_connection_serves_a_loop(service: Service) -> None:
    model = wrap_model(not_streaming(service.endpoint))
    assert connections_of_turns(model, service) == 1


@pytest.mark.parametrize(
    "provider", [by_client_args, by_client, responses_model, litellm_model], ids=lambda p: p.__name__
)
def test_turns_when_streamed_then_one_connection_serves_a_loop(provider: Any, service: Service) -> None:
    assert connections_of_turns(wrap_model(provider(service.endpoint)), service) == 1


def test_loop_pool_when_asked_then_one_for_each_loop_closed_with_it() -> None:
    async def main() -> Any:
        first, *others = await asyncio.gather(*(loop_pool() for _ in range(5)))
        assert all(pool is first for pool in others)
        await first.aclose()  # what openai does with a client it is given
        assert not first.is_closed
        return first

    one, other = asyncio.run(main()), asyncio.run(main())
    assert one is not other
    assert one.is_closed
    assert other.is_closed
    assert not {one, other} & {pool for pool, _ in _pools.values()}  # other loops of the process may have theirs


def test_loop_pool_when_used_then_it_keeps_no_cookies_and_follows_no_redirects(service: Service) -> None:
    service.script(
        Answer(status=307, headers={"Location": f"{service.endpoint}/elsewhere", "Set-Cookie": "who=t1; Path=/"})
    )

    async def main() -> None:
        pool = await loop_pool()
        assert (await pool.post(f"{service.endpoint}/x")).status_code == 307
        await pool.post(f"{service.endpoint}/y")

    asyncio.run(main())
    assert [request.path for request in service.requests] == ["/x", "/y"]
    assert "cookie" not in service.requests[1].headers


async def arrived(service: Service, count: int) -> None:
    while len(service.requests) < count:  # noqa: ASYNC110 - the service is in another thread
        await asyncio.sleep(0.001)


def small_pool(monkeypatch: pytest.MonkeyPatch, **limits: Any) -> None:
    options = {**_loop_pool.pool_options(), "limits": http.Limits(**limits)}
    monkeypatch.setattr(_loop_pool, "pool_options", lambda: options)


def test_pool_when_requests_that_wait_for_a_connection_are_cancelled_then_no_connection_is_lost(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pool(monkeypatch, max_connections=2)
    gate = service.gate()
    service.script(Answer(gate=gate), Answer(gate=gate))

    async def main() -> None:
        pool = await loop_pool()

        async def post() -> int:
            return int((await pool.post(f"{service.endpoint}/x")).status_code)

        for cancelled_late in (False, True):  # while nothing is free, and while connections become free
            holding = [asyncio.ensure_future(post()) for _ in range(2)]
            await arrived(service, 2)
            waiting = [asyncio.ensure_future(post()) for _ in range(20)]
            await asyncio.sleep(0)
            if cancelled_late:
                gate.set()
                await asyncio.wait(holding, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            gate.set()
            assert await asyncio.gather(*holding) == [200, 200]
            assert await asyncio.wait_for(asyncio.gather(*(post() for _ in range(10))), 30) == [200] * 10
            service.requests.clear()
            gate.clear()
            service.script(Answer(gate=gate), Answer(gate=gate))

    asyncio.run(main())


def test_pool_when_a_request_waits_too_long_for_a_connection_then_it_is_turned_away_unsent(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pool(monkeypatch, max_connections=1)
    gate = service.gate()
    service.script(Answer(gate=gate))

    async def main() -> None:
        pool = await loop_pool()
        holding = asyncio.ensure_future(pool.post(f"{service.endpoint}/x"))
        await arrived(service, 1)
        with pytest.raises(http.TimeoutException) as caught:
            await pool.post(f"{service.endpoint}/x", timeout=http.Timeout(30, pool=0.01))
        assert after_error(caught.value) == (TurnState.REFUSED, True)
        gate.set()
        await holding

    asyncio.run(main())
    assert len(service.requests) == 1


def test_pool_when_an_origin_is_not_used_any_more_then_its_connections_close(monkeypatch: pytest.MonkeyPatch) -> None:
    small_pool(monkeypatch, keepalive_expiry=0.01)

    async def main() -> None:
        closed = asyncio.Semaphore(0)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            assert await reader.read() == b""
            closed.release()
            writer.close()

        pool = await loop_pool()
        servers = [await asyncio.start_server(serve, "127.0.0.1", 0) for _ in range(16)]
        for server in servers:
            await pool.get(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        for _ in servers:
            await asyncio.wait_for(closed.acquire(), 30)
        for server in servers:
            server.close()

    asyncio.run(main())


SCRIPT = """
import asyncio, gc, sys
sys.path.insert(0, {tests!r})
from fakes import Service, ga_payload
import openai
from strands import Agent
from strands.models.openai import OpenAIModel
from aws_rft_sdk import RFTContext, rft_handler, wrap_model

with Service() as service:
    args = dict(api_key="k", base_url=f"{{service.endpoint}}/v1")
    ready = openai.AsyncOpenAI(**args)
    for kwargs in (dict(client_args=args), dict(client=ready)):
        model = wrap_model(OpenAIModel(model_id="default", **kwargs))

        @rft_handler
        def handler(payload):
            Agent(model=model, callback_handler=None)("2+2?")
            return 1.0

        @rft_handler
        async def async_handler(payload):
            await Agent(model=model, callback_handler=None).invoke_async("2+2?")
            return 1.0

        async def many():
            await asyncio.gather(*(async_handler(service.payload(f"a{{i}}")) for i in range(5)))

        for i in range(3):
            handler(service.payload(f"s{{i}}"))
        asyncio.run(many())
        gc.collect()
    assert len(service.of("/UpdateReward")) == 16
print("done")
"""


def test_resources_when_rollouts_end_in_development_mode_then_nothing_is_left_open(tmp_path: Path) -> None:
    script = tmp_path / "rollouts.py"
    script.write_text(textwrap.dedent(SCRIPT).format(tests=str(Path(__file__).parents[2])))
    result = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error::ResourceWarning", str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.stdout.strip().endswith("done"), result.stderr
    assert "ResourceWarning" not in result.stderr
    assert "never awaited" not in result.stderr
