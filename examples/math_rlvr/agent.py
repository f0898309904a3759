"""A Strands agent that solves word problems in one turn, ready for reinforcement fine-tuning."""

from __future__ import annotations

from typing import Any

from math_reward import reward
from strands import Agent
from strands.models.openai import OpenAIModel

from aws_rft_sdk import rft_handler, wrap_model
from aws_rft_sdk.adapters.openai import runtime_client_args
from aws_rft_sdk.datasets import unpack
from aws_rft_sdk.rewards import Rollout, evaluate


@rft_handler
async def handler(payload: dict[str, Any]) -> dict[str, Any]:
    """Answer the question of a packed prompt cell and score the answer.

    Args:
        payload: `prompt` is a cell of `prepare.py`.

    Returns:
        `answer`, and `reward` as `math_reward` gives it.
    """
    task = unpack(payload["prompt"])
    model = wrap_model(OpenAIModel(client_args=runtime_client_args(), model_id="default"))
    answer = str(await Agent(model=model, callback_handler=None).invoke_async(str(task.question)))
    rollout = Rollout.of_answer(answer, task.ground_truth, task.question)
    return {"answer": answer, "reward": evaluate(reward, rollout).reward}
