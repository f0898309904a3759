"""The providers under test, each built as a user would build it, all leading to one loopback endpoint."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import openai
import pytest
from strands.models.model import Model
from strands.models.openai import OpenAIModel
from strands.models.openai_responses import OpenAIResponsesModel

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it asks the network while it is imported
try:
    import litellm
    from strands.models.litellm import LiteLLMModel
except ModuleNotFoundError:
    pass  # tests that ask for the model are skipped
else:
    litellm.suppress_debug_info = True

USER = [{"role": "user", "content": [{"text": "2+2?"}]}]


def client_args(endpoint: str, **more: Any) -> dict[str, Any]:
    return {"api_key": "k", "base_url": f"{endpoint}/v1", **more}


def by_client_args(endpoint: str, **config: Any) -> OpenAIModel:
    return OpenAIModel(model_id="default", client_args=client_args(endpoint), **config)


def by_client(endpoint: str, **config: Any) -> OpenAIModel:
    return OpenAIModel(openai.AsyncOpenAI(**client_args(endpoint)), model_id="default", **config)


def not_streaming(endpoint: str, **config: Any) -> OpenAIModel:
    return OpenAIModel(model_id="default", client_args=client_args(endpoint), stream=False, **config)


def responses_model(endpoint: str, **config: Any) -> OpenAIResponsesModel:
    return OpenAIResponsesModel(model_id="default", client_args=client_args(endpoint), **config)


def litellm_model(endpoint: str, **config: Any) -> LiteLLMModel:
    pytest.importorskip("litellm", reason="needs: pip install -e '.[litellm]'")
    return LiteLLMModel(client_args=client_args(endpoint), model_id="openai/default", **config)


PROVIDERS: list[Callable[..., Model]] = [by_client_args, by_client, not_streaming, responses_model, litellm_model]


async def one_turn(model: Any, messages: Any = None) -> list[Any]:
    return [event async for event in model.stream(messages or USER)]


def turn(model: Any) -> list[Any]:
    return asyncio.run(one_turn(model))
