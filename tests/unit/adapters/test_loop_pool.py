"""One connection pool for each event loop, reused over turns and rollouts, closed with its loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from fakes import Service, ga_payload

from aws_rft_sdk import RFTContext, wrap_model
from aws_rft_sdk.adapters._loop_pool import _pools, loop_pool

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
    from fakes import Answer

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
