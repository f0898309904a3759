"""A production model of another provider, and calls of models without an agent."""

from __future__ import annotations

import asyncio
from typing import Any

from strands.models.model import Model

USER: list[Any] = [{"role": "user", "content": [{"text": "2+2?"}]}]


class ScriptedModel(Model):
    """A production model of another provider."""

    _supports_structured_output = True

    def __init__(self) -> None:
        self.config: dict[str, Any] = {"model_id": "scripted", "context_window_limit": 100}
        self.asked: list[str] = []

    @property
    def stateful(self) -> bool:
        return True

    def update_config(self, **config: Any) -> None:
        self.config.update(config)

    def get_config(self) -> dict[str, Any]:
        return self.config

    async def count_tokens(self, *args: Any, **kwargs: Any) -> int:
        self.asked.append("count_tokens")
        return 1234

    async def structured_output(self, output_model: Any, prompt: Any, *args: Any, **kwargs: Any) -> Any:
        self.asked.append("structured_output")
        yield {"output": output_model(answer=4)}

    async def stream(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        self.asked.append("stream")
        yield {"messageStart": {"role": "assistant"}}
        yield {"contentBlockDelta": {"delta": {"text": "production"}}}
        yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "end_turn"}}


def turn(model: Any) -> list[Any]:
    async def main() -> list[Any]:
        return [event async for event in model.stream(USER)]

    return asyncio.run(main())


def said(events: list[Any]) -> str:
    deltas = [event["contentBlockDelta"]["delta"] for event in events if "contentBlockDelta" in event]
    return "".join(delta.get("text", "") for delta in deltas)
