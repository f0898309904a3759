"""Six agents that a job cannot be run with. Each makes one mistake that fails a whole job on the service."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from agent import build_agent
from openai import OpenAI

from aws_rft_sdk import RolloutFeedbackClient, rft_handler
from aws_rft_sdk.datasets import unpack


async def ask(payload: dict[str, Any]) -> str:
    """Let the agent of the example solve the problem."""
    return str(await build_agent().invoke_async(str(unpack(payload["prompt"]))))


@rft_handler
async def never_samples(payload: dict[str, Any]) -> dict[str, Any]:
    """Answers from memory: the model under training is never called."""
    return {"answer": "#### 42", "reward": 1.0}


@rft_handler(reward="deferred")
async def no_reward(payload: dict[str, Any]) -> dict[str, Any]:
    """Completes the rollout and forgets the reward. The decorator allows that only if the reward is to come later."""
    answer = await ask(payload)
    RolloutFeedbackClient(payload).complete_trajectory()
    return {"answer": answer}


@rft_handler(on_error="failed")
async def raises(payload: dict[str, Any]) -> dict[str, Any]:
    """Breaks after the model has answered, and says so to the service."""
    await ask(payload)
    raise RuntimeError("the tool server is down")


@rft_handler
async def too_slow(payload: dict[str, Any]) -> dict[str, Any]:
    """Works for longer than `rollout_timeout` allows."""
    answer = await ask(payload)
    await asyncio.sleep(60)
    return {"answer": answer, "reward": 1.0}


def wrong_metadata(payload: dict[str, Any]) -> dict[str, Any]:
    """Was written without the decorator, and calls the model under an id that the service did not give."""
    metadata = {**payload["metadata"], "rolloutId": "rollout-of-yesterday"}
    headers = {
        "X-Amzn-SageMaker-Job-Arn": metadata["jobArn"],
        "X-Amzn-SageMaker-Trajectory-Id": metadata["rolloutId"],
    }
    client = OpenAI(base_url=f"{metadata['endpoint']}/v1", api_key="none", default_headers=headers, max_retries=0)
    client.chat.completions.create(model="default", messages=[{"role": "user", "content": payload["prompt"]}])
    return {"reward": 1.0}


@rft_handler
async def dies(payload: dict[str, Any]) -> dict[str, Any]:
    """Takes its process down, as a container does that runs out of memory."""
    await ask(payload)
    os._exit(1)
