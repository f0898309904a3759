"""What is imported when: little with `rft_handler`, and the rest before the deadline of a rollout starts."""

from __future__ import annotations

import subprocess
import sys

import pytest

SLOW = ("asyncio", "anyio", "opentelemetry", "requests", "urllib3", "botocore", "email", "importlib.metadata")
RUN = """
import asyncio, sys
from aws_rft_sdk import rft_handler
from aws_rft_sdk.lifecycle.calling import run_handler

class Client:
    def __init__(self, request): pass
    def report_complete(self, reward): pass
    update_reward = report_error = report_complete

@rft_handler(require_turns=False, client=Client)
def handler(payload):
    print([name for name in ("opentelemetry", "requests", "botocore") if name in sys.modules])
    return 1.0

metadata = {"jobArn": "arn:aws:sagemaker:us-west-2:123456789012:job/AgentRFT/j", "rolloutId": "t"}
ended = asyncio.run(run_handler(handler, {"metadata": metadata} if TRAJECTORY else {}, deadline_seconds=60,
                                trajectory_id=TRAJECTORY))
assert ended.error is None, ended.error
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", ["rft_handler", "RFTContext", "RolloutRequest", "RolloutFeedbackClient"])
def test_public_name_when_it_is_imported_then_nothing_slow_is(name: str) -> None:
    assert run(f"from aws_rft_sdk import {name}; import sys; print([n for n in {SLOW!r} if n in sys.modules])") == "[]"


def test_handler_when_it_is_decorated_and_serves_production_then_nothing_slow_is_imported() -> None:
    code = "from aws_rft_sdk import rft_handler; import sys; rft_handler(lambda payload: 1)({'prompt': 'x'});"
    assert run(f"{code} print([n for n in {SLOW!r} if n in sys.modules])") == "[]"


def test_run_handler_when_it_is_the_first_rollout_then_feedback_is_loaded_before_the_function_runs() -> None:
    assert run(f"TRAJECTORY = 't'\n{RUN}") == "['opentelemetry', 'requests', 'botocore']"


def test_run_handler_when_it_is_production_traffic_then_nothing_is_loaded_for_it() -> None:
    assert run(f"TRAJECTORY = None\n{RUN}") == "[]"
