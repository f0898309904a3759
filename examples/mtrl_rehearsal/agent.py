"""The agent that the job trains: it solves word problems with a calculator, one step at a time."""

from __future__ import annotations

from typing import Any

from strands import Agent, tool
from strands.models.openai import OpenAIModel

from aws_rft_sdk import rft_handler, wrap_model
from aws_rft_sdk.adapters.openai import runtime_client_args
from aws_rft_sdk.datasets import unpack
from aws_rft_sdk.rewards import Rollout, evaluate, gsm8k

SYSTEM_PROMPT = "Solve the problem with the calculator, one step at a time. End with a line: #### <number>"


@tool
def calculator(operation: str, a: float, b: float) -> str:
    """Calculate with two numbers.

    Args:
        operation: add, subtract, multiply or divide.
        a: The first number.
        b: The second number.
    """
    results = {"add": a + b, "subtract": a - b, "multiply": a * b, "divide": a / b if b else 0}
    return f"{results[operation]:g}"


def build_agent() -> Agent:
    """Return a new agent, which talks to the model under training. It holds one conversation, so it is not shared."""
    model = wrap_model(OpenAIModel(client_args=runtime_client_args(), model_id="default"))
    return Agent(model=model, tools=[calculator], system_prompt=SYSTEM_PROMPT, callback_handler=None)


@rft_handler
async def handler(payload: dict[str, Any]) -> dict[str, Any]:
    """Solve the problem in `payload["prompt"]`. The reward is 1 for the right number, and 0 for another one."""
    task = unpack(payload["prompt"])
    answer = str(await build_agent().invoke_async(str(task)))
    return {"answer": answer, "reward": evaluate(gsm8k, Rollout.of_answer(answer, task.ground_truth)).reward}
