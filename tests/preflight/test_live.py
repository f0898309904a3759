"""`aws-rft preflight HANDLER DATASET` with real agents: it runs them, proves them, and computes rewards again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from aws_rft_sdk.cli import main

AGENT = """
import itertools
from strands import Agent
from strands.models.openai import OpenAIModel
from aws_rft_sdk import rft_handler, runtime_model

numbers = itertools.count()
NOWHERE = {"api_key": "x", "base_url": "http://127.0.0.1:9/v1", "max_retries": 0}


def policy(request):
    return "4" if next(numbers) % 2 else "5"


def ask(model, prompt):
    return str(Agent(model=model, callback_handler=None)(prompt)).strip()


@rft_handler
def clean(payload):
    return float(ask(runtime_model(), payload["prompt"]) == "4")


@rft_handler
def noisy(payload):
    ask(runtime_model(), payload["prompt"])
    return float(next(numbers) % 3 == 0)


@rft_handler
def crashing(payload):
    answer = ask(runtime_model(), payload["prompt"])
    if next(numbers) % 5 == 0:
        raise ValueError("broken")
    return float(answer == "4")


@rft_handler
def foreign(payload):
    judge = OpenAIModel(model_id="judge", client_args=NOWHERE)
    try:
        ask(judge, payload["prompt"])
    except Exception:
        pass
    return float(ask(runtime_model(), payload["prompt"]) == "4")
"""
HANDLERS = {
    "clean": {"untracked": "go", "foreign_model": "go", "reward_noise": "go", "failed_share": "go"},
    "noisy": {"reward_noise": "warn"},
    "crashing": {"failed_share": "no-go"},
    "foreign": {"foreign_model": "no-go"},
}


@pytest.mark.parametrize("name", HANDLERS)
def test_preflight_when_it_runs_a_handler_then_what_is_wrong_with_it_is_found(tmp_path: Path, name: str) -> None:
    (tmp_path / "agent.py").write_text(AGENT)
    (tmp_path / "train.jsonl").write_text("".join(f'{{"prompt": "{n} + {n}?"}}\n' for n in range(20)))
    files = (f"{tmp_path}/agent.py:{name}", f"{tmp_path}/train.jsonl")
    options = ("--policy", f"callable:{tmp_path}/agent.py:policy", "--prompts", "16", "--samples", "4")

    done = CliRunner().invoke(main, ["preflight", *files, *options, "--out", f"{tmp_path}/run", "--json"])

    found = json.loads(done.stdout)
    rules = {reason["rule"]: reason["verdict"] for reason in found["reasons"]}
    assert {rule: rules.get(rule) for rule in HANDLERS[name]} == HANDLERS[name]
    assert done.exit_code == (1 if "no-go" in HANDLERS[name].values() else 0)
    assert found["estimates"]["worker_peak_bytes"] > 10**7
    assert found["fidelity"]["broken"] == 0
