"""Wrappers and agents that make, each, one of the mistakes that the proof is to find."""

from __future__ import annotations

from typing import Any

from strands import Agent
from strands.models.openai import OpenAIModel

from aws_rft_sdk import RFTContext, wrap_model


class WritesHeaders(OpenAIModel):
    """Writes the headers of the rollout into client arguments that all calls share."""

    async def stream(self, *args: Any, **kwargs: Any) -> Any:
        self.client_args.setdefault("default_headers", {}).update(RFTContext.get_headers())
        async for event in super().stream(*args, **kwargs):
            yield event


class RetriesBlindly(OpenAIModel):
    """Sends the right headers and leaves the client's retries on."""

    def format_request(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        request = super().format_request(*args, **kwargs)
        return {**request, "extra_headers": RFTContext.get_headers()}


class OneSpan(OpenAIModel):
    """Makes the headers once for each rollout."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.headers: dict[str, dict[str, str]] = {}

    def format_request(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        request = super().format_request(*args, **kwargs)
        context = RFTContext.current()
        if context is None:
            return request
        if context.trajectory_id not in self.headers:
            self.headers[context.trajectory_id] = context.headers()
        return {**request, "extra_headers": self.headers[context.trajectory_id]}


def remake(kind: type[OpenAIModel], **client_args: Any) -> Any:
    """Return a wrap function that makes a model of another class with the same arguments."""

    def wrap(model: Any) -> OpenAIModel:
        made = kind(client_args={**model.client_args, **client_args})
        made.config = dict(model.config)
        return made

    return wrap


def address_of(payload: dict[str, Any]) -> dict[str, Any]:
    return {"base_url": f"{payload['metadata']['endpoint']}/v1", "api_key": "none"}


def model_of(payload: dict[str, Any], kind: type[OpenAIModel] = OpenAIModel) -> OpenAIModel:
    return kind(client_args=address_of(payload), model_id="default")


def wrapped(payload: dict[str, Any]) -> OpenAIModel:
    return wrap_model(model_of(payload))


def ask(model: Any, prompt: str, *tools: Any) -> str:
    return str(Agent(model=model, tools=list(tools), callback_handler=None)(prompt))
