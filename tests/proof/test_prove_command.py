"""`aws-rft prove`: what it prints and how it exits."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from aws_rft_sdk.cli import main

EXAMPLE = Path(__file__).parents[2] / "examples" / "gsm8k_calculator"
AGENT = """
from strands import Agent
from strands.models.openai import OpenAIModel
from aws_rft_sdk import rft_handler, wrap_model

model = {model}

@rft_handler
def handler(payload):
    Agent(model=model, callback_handler=None)(payload["prompt"])
    return 1.0
"""


def prove(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["prove", *arguments])


def test_mixture_is_proved_and_exits_0():
    result = prove("--rollouts", "22", "--threads", "4")

    assert result.exit_code == 0, result.output
    assert "turns under the wrong trajectory │ 0" in result.stdout
    assert result.stdout.rstrip().endswith("\nproved")


def test_json_holds_the_numbers():
    result = prove("--rollouts", "22", "--threads", "4", "--json")

    proof = json.loads(result.stdout)
    assert proof["passed"] is True
    assert proof["rollouts"] == 24
    assert proof["reported"] == 24
    assert proof["turns_seen"] > 24
    names = ["turns_under_the_wrong_trajectory", "untracked_turns", "stray_headers_outside_rollouts", "duplicate_turns"]
    assert [proof[name] for name in names] == [0, 0, 0, 0]
    assert (proof["causes"], proof["examples"]) == ([], {})


def test_handler_that_is_wrong_exits_1_with_its_cause(tmp_path):
    file = tmp_path / "prove_wrong.py"
    file.write_text(AGENT.format(model="OpenAIModel(model_id='default')"))

    result = prove("--handler", f"{file}:handler", "--rollouts", "8", "--no-faults", "--prompt", "hello")

    assert result.exit_code == 1
    assert "cause: model not wrapped (8)" in result.stdout
    assert "prove_wrong.model" in result.stdout
    assert result.stdout.rstrip().endswith("\nnot proved: model not wrapped")


def test_json_of_a_handler_that_is_wrong_has_causes_and_examples(tmp_path):
    file = tmp_path / "prove_wrong_json.py"
    file.write_text(AGENT.format(model="OpenAIModel(model_id='default')"))

    result = prove("--handler", f"{file}:handler", "--rollouts", "4", "--json", "--no-faults")

    proof = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [cause["kind"] for cause in proof["causes"]] == ["unwrapped_model"]
    assert len(proof["examples"]["untracked_turns"]) == 3


def test_dataset_is_used_and_calls_outside_are_made():
    result = prove(
        *("--handler", f"{EXAMPLE / 'agent.py'}:handler", "--dataset", str(EXAMPLE / "problems.jsonl")),
        *("--rollouts", "8", "--outside", "2", "--json"),
    )

    proof = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (proof["rollouts"], proof["calls_outside_rollouts"]) == (8, 2)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--prompt", "x"], id="prompt without handler"),
        pytest.param(["--outside", "1"], id="outside without handler"),
        pytest.param(["--handler", "nowhere.py:handler"], id="no file"),
        pytest.param(["--rollouts", "0"], id="no rollouts"),
        pytest.param(["--handler", "json:loads", "--prompt", "x", "--dataset", __file__], id="prompt and dataset"),
    ],
)
def test_bad_usage_exits_2(arguments):
    assert prove(*arguments).exit_code == 2


def test_logging_is_as_before():
    prove("--rollouts", "2", "--threads", "1")

    assert logging.root.manager.disable == logging.NOTSET
