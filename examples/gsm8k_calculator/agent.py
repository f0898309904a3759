"""A Strands agent that solves word problems with a calculator, ready for reinforcement fine-tuning.

Three things make it trainable, and none of them changes what it does in production: `@rft_handler` on the entry point,
`wrap_model` around the model, and a reward in the result.
"""

from __future__ import annotations

from typing import Any

from gsm8k_arithmetic import calculate
from gsm8k_task import Task
from strands import Agent, tool
from strands.models.openai import OpenAIModel

from aws_rft_sdk import RFTContext, rft_handler, wrap_model
from aws_rft_sdk.adapters.openai import runtime_client_args

SYSTEM_PROMPT = """Solve the problem step by step. Use the calculator for every calculation, one at a time.
End with a line of its own that gives the result as a bare number:
#### <number>"""

PRODUCTION_MODEL = "gpt-5-mini"


@tool
def calculator(expression: str) -> str:
    """Calculate an arithmetic expression.

    Args:
        expression: Numbers with + - * / // % ** and parentheses, for example "(3 + 4) * 2.5".
    """
    try:
        return calculate(expression)
    except ValueError as error:
        return f"Error: {error}"  # the model may try again


def build_model() -> OpenAIModel:
    """Return the model under training inside a rollout, and the production model outside one.

    Replace the last line with your own model. As it stands, the `openai` package finds `OPENAI_API_KEY` and
    `OPENAI_BASE_URL` in the environment.
    """
    if RFTContext.current() is not None:
        return wrap_model(OpenAIModel(client_args=runtime_client_args(), model_id="default"))
    return OpenAIModel(model_id=PRODUCTION_MODEL)


@rft_handler
async def handler(payload: dict[str, Any]) -> dict[str, Any]:
    """Answer the question in `payload["prompt"]`, and say how good the answer is where that is known.

    The agent is made anew for each call: it holds the conversation, so two rollouts must not share one.

    Args:
        payload: `prompt` is a dataset cell (see `Task.parse`) or, in production, a plain question.

    Returns:
        `answer`, the agent's last message; `reward`, 1.0 or 0.0, or None if the prompt came without an answer.
    """
    task = Task.parse(payload["prompt"])
    agent = Agent(model=build_model(), tools=[calculator], system_prompt=SYSTEM_PROMPT, callback_handler=None)
    answer = str(await agent.invoke_async(task.question))
    return {"answer": answer, "reward": task.reward(answer)}
