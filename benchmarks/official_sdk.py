"""The published SageMaker SDK completes rollouts against the local runtime, with verified bearer tokens.

    python -m venv /tmp/official && /tmp/official/bin/pip install sagemaker-train "strands-agents[openai]"
    python benchmarks/official_sdk.py --python /tmp/official/bin/python [--rollouts 8]

A referee that we did not write: its decorator, its model wrapper and its feedback client, in an environment of its own
since it installs some 900 MB. Run one after the other and all at once, it also shows how many turns its shared wrapped
model credits to the wrong trajectory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from aws_rft_sdk import LocalRuntime

AGENT = """
import asyncio, json, os, sys
from sagemaker.train.rft.adapters.strands import wrap_model
from sagemaker.train.rft.decorators import sagemaker_rft_handler
from sagemaker.core.token_generator import generate_token
from strands import Agent
from strands.models.openai import OpenAIModel

payloads, together = json.load(sys.stdin), sys.argv[1] == "together"
endpoint, token = payloads[0]["metadata"]["endpoint"], generate_token(region="us-west-2")
model = wrap_model(OpenAIModel(client_args={"base_url": endpoint + "/v1", "api_key": token}, model_id="default"))

@sagemaker_rft_handler
async def handler(payload):
    await Agent(model=model, callback_handler=None).invoke_async(payload["prompt"])
    return {"reward": 1.0}

async def main():
    if together:
        await asyncio.gather(*[handler(payload) for payload in payloads])
    else:
        for payload in payloads:
            await handler(payload)

asyncio.run(main())
"""
KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
    "AWS_DEFAULT_REGION": "us-west-2",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def run(python: Path, rollouts: int, *, together: bool) -> tuple[int, int]:
    """Return how many trajectories got their reward, and how many of those hold exactly their own prompt."""
    arrived = threading.Barrier(rollouts if together else 1)

    def policy(request: dict[str, object]) -> str:
        arrived.wait(timeout=60)  # all calls are under way at once, as in a job
        return "done"

    with LocalRuntime(policy=policy, auth="bearer") as runtime:
        payloads = [runtime.new_rollout(f"prompt {number}") for number in range(rollouts)]
        subprocess.run(
            [str(python), "-c", AGENT, "together" if together else "alone"],
            input=json.dumps(payloads),
            text=True,
            check=True,
            env={**os.environ, **KEYS},
            timeout=300,
        )
        trajectories = runtime.trajectories()
    rewarded = [item for item in trajectories if item.rewards == (1.0,)]
    own = [item for item in trajectories if [_prompt(turn.request) for turn in item.turns] == [item.prompt]]
    return len(rewarded), len(own)


def _prompt(request: dict) -> str:
    content = request["messages"][-1]["content"]
    return content if isinstance(content, str) else content[0]["text"]


def main() -> None:
    """Print both counts; exit 1 unless every rollout that ran alone was captured and rewarded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, required=True, help="interpreter that has sagemaker-train")
    parser.add_argument("--rollouts", type=int, default=8)
    arguments = parser.parse_args()
    os.environ.update(KEYS)
    alone = run(arguments.python, arguments.rollouts, together=False)
    print(f"one after the other: {alone[0]} of {arguments.rollouts} rewarded, {alone[1]} with their own turn")
    together = run(arguments.python, arguments.rollouts, together=True)
    print(f"all at once:         {together[0]} of {arguments.rollouts} rewarded, {together[1]} with their own turn")
    sys.exit(alone != (arguments.rollouts, arguments.rollouts))


if __name__ == "__main__":
    main()
