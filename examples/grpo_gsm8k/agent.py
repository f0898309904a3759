"""A Strands agent that solves GSM8K in one turn, with the two rewards of the recipe: correct 1.0, form 0.5."""

from __future__ import annotations

from typing import Any

from strands import Agent
from strands.types.exceptions import MaxTokensReachedException

from aws_rft_sdk import rft_handler
from aws_rft_sdk.adapters.runtime_model import runtime_model
from aws_rft_sdk.datasets import unpack
from aws_rft_sdk.rewards import Format, Rollout, evaluate

reward = Format.final_answer()
"""1.0 for the right number, and 0.5 if "#### The final answer is <number>" is the last line and occurs once."""


@rft_handler(on_error="failed")
async def handler(payload: dict[str, Any]) -> dict[str, Any]:
    """Answer the question of a prompt cell of `dataset.py` and score the answer.

    An answer that was cut off at `max_tokens` is scored as far as it goes. Strands raises an error for it, and a
    rollout that fails is left out of its group. So without the `except` below, a model would never be told that running
    on is wrong.

    Args:
        payload: `prompt` is the cell. Cells of the test split have `stop`, texts before which sampling stops.

    Returns:
        `answer`; `reward`, 0 to 1.5; and in `metrics` the parts `correct` and `format`, each 0 or 1.
    """
    task = unpack(payload["prompt"])
    stop = task.hidden.get("stop")
    agent = Agent(model=runtime_model(params={"stop": list(stop)} if stop else {}), callback_handler=None)
    try:
        await agent.invoke_async(str(task.question))
    except MaxTokensReachedException:
        pass  # the text so far is the last message
    rollout = Rollout.from_agent(agent, task.ground_truth)
    result = evaluate(reward, rollout)
    parts = {component.name: component.value for component in result.components}
    return {"answer": rollout.answer, "reward": result.reward, "metrics": parts}
