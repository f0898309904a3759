"""Records rollouts into a folder, as `aws-rft rollout --out` does, one after the other and without a dataset."""

import asyncio
from pathlib import Path

from strands import Agent, tool
from strands.models.openai import OpenAIModel

from aws_rft_sdk import LocalRuntime, rft_handler, wrap_model
from aws_rft_sdk.adapters.openai import runtime_client_args
from aws_rft_sdk.lifecycle.calling import run_handler
from aws_rft_sdk.runs import RolloutRecord, RolloutStatus

SYSTEM_PROMPT = "Answer with the tool."


def model():
    return wrap_model(OpenAIModel(client_args=runtime_client_args(), model_id="default"))


def make_handler(look_up=lambda key: f"value of {key}", *, system_prompt=SYSTEM_PROMPT, score=len, before=None):
    """Return a handler around a real agent with one tool, `look_up`, and a reward that is the score of its answer."""

    @tool(name="look_up", description="Look something up.")
    def look_up_tool(key: str) -> str:
        return look_up(key)

    @rft_handler
    async def handler(payload):
        if before is not None:
            await before(payload)
        agent = Agent(model=model(), tools=[look_up_tool], system_prompt=system_prompt, callback_handler=None)
        answer = str(await agent.invoke_async(payload["prompt"])).strip()
        return {"reward": float(score(answer))}

    return handler


def policy(request):
    """Look up the prompt, then say what came of it."""
    results = [message for message in request["messages"] if message["role"] == "tool"]
    if results:
        return f"It is {results[-1]['content']}."
    key = request["messages"][-1]["content"]
    key = key if isinstance(key, str) else key[0]["text"]
    call = {"type": "function", "function": {"name": "look_up", "arguments": f'{{"key": "{key}"}}'}}
    return {"content": None, "tool_calls": [call]}


def record(folder: Path, handler, prompts=("a", "b"), *, answers=policy, runs=1, params=None):
    """Run a handler over prompts and write records and trajectories to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with LocalRuntime(answers, db=folder / "trajectories.db") as runtime:
        records = [
            asyncio.run(_run(runtime, handler, prompt, index, sample, params))
            for index, prompt in enumerate(prompts)
            for sample in range(runs)
        ]
    write_records(folder, records)
    return records


async def _run(runtime, handler, prompt, index, sample, params):
    payload = runtime.new_rollout(prompt, inference_params=params)
    trajectory_id = payload["metadata"]["rolloutId"]
    ended = await run_handler(handler, payload, trajectory_id=trajectory_id)
    context = ended.context
    return RolloutRecord(
        trajectory_id=trajectory_id,
        prompt_index=index,
        sample_index=sample,
        reward=sum(context.rewards) if context.rewards is not None else None,
        turns=context.turns.tracked,
        seconds=ended.seconds,
        status=RolloutStatus.COMPLETED if ended.error is None else RolloutStatus.FAILED,
        error=None if ended.error is None else f"{type(ended.error).__name__}: {ended.error}",
        rewards=context.rewards if context.rewards and len(context.rewards) > 1 else None,
        unsure_turns=context.turns.unsure,
        refused_calls=context.turns.failed - context.turns.unsure,
    )


def write_records(folder, records):
    (folder / "rollouts.jsonl").write_text("".join(record.to_json() + "\n" for record in records))
