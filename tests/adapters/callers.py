"""OpenAI clients of both kinds, called alike."""

from __future__ import annotations

import asyncio
from typing import Any

import openai

from aws_rft_sdk import RFTContext

CHAT: dict[str, Any] = {"model": "default", "messages": [{"role": "user", "content": "2+2?"}]}


class Caller:
    """Calls a client of one kind; the asynchronous kind in one loop, as outside of rollouts it must be."""

    def __init__(self, asynchronous: bool) -> None:
        self.asynchronous = asynchronous
        self.loop = asyncio.new_event_loop()
        self.clients: list[Any] = []

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    def close(self) -> None:
        for client in self.clients:
            closing = client.close()
            if self.asynchronous:
                self.run(closing)
        self.run(self.loop.shutdown_asyncgens())
        self.loop.close()

    def client(self, endpoint: str, **options: Any) -> Any:
        kind = openai.AsyncOpenAI if self.asynchronous else openai.OpenAI
        self.clients.append(kind(base_url=f"{endpoint}/v1", api_key="k", **options))
        return self.clients[-1]

    def call(self, create: Any, **request: Any) -> Any:
        """Return the answer, or all items of a streamed one."""
        if not self.asynchronous:
            answer = create(**request)
            return list(answer) if request.get("stream") else answer

        async def main() -> Any:
            answer = await create(**request)
            return [item async for item in answer] if request.get("stream") else answer

        return self.run(main())

    def chat(self, client: Any, **more: Any) -> Any:
        return self.call(client.chat.completions.create, **{**CHAT, **more})


def turns(rollout: RFTContext) -> tuple[int, int, int]:
    return rollout.turns.begun, rollout.turns.answered, rollout.turns.failed
