"""`aws-rft prove`: what it prints and how it exits."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from aws_rft_sdk.cli import main
from aws_rft_sdk.datasets import prepare_gsm8k

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
    assert "agent 'Strands Agents' asked default (OpenAIModel)" in result.stdout
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


EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("example", ["gsm8k_calculator", "math_rlvr"])
def test_examples_are_proved_with_their_own_prompts(tmp_path, example):
    folder = EXAMPLES / example
    problems = folder / "problems.jsonl"
    if example == "math_rlvr":
        prepare_gsm8k(problems, tmp_path, shots=2)
        problems = tmp_path / "train.jsonl"

    result = prove(f"{folder / 'agent.py'}:handler", "--dataset", str(problems), "--rollouts", "16")

    assert result.exit_code == 0, result.output
    assert result.stdout.rstrip().endswith("\nproved")


def test_reach_and_other_models_are_in_the_json(tmp_path):
    file = tmp_path / "prove_foreign.py"
    file.write_text(
        "from tests.proof.production import answers, sub_agent\n"  # a sub-agent over the production model
        "handler = answers(sub_agent)\n"
    )

    result = prove(f"{file}:handler", "--rollouts", "2", "--no-faults", "--json")

    proof = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [cause["kind"] for cause in proof["causes"]] == ["foreign_model"]
    assert proof["calls_of_other_models"] == 2
    assert (proof["reach"]["tools"], proof["reach"]["agents"]) == (["reviewer"], ["main", "reviewer"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("import nothing_there\n", "{file}:1: ModuleNotFoundError: No module named", id="import"),
        pytest.param("colours = {}\nred = colours['red']\n", "{file}:2: KeyError: 'red'", id="error"),
        pytest.param("raise ValueError('a\\nb')\n", "{file}:1: ValueError: a b", id="error of several lines"),
        pytest.param("import sys\nsys.exit()\n", "{file}:2: SystemExit:", id="exit"),
        pytest.param("def handler(payload:\n", "{file}:1 is no valid Python: '(' was never closed", id="syntax"),
        pytest.param(
            "from aws_rft_sdk import wrap_model\nmodel = wrap_model(3)\n",
            "{file}:2: ConfigurationError: ",
            id="error of ours",
        ),
        pytest.param("def other(payload): ...\n", "{file} has no 'handler'", id="attribute"),
        pytest.param("handler = 3\n", "is a int, not a function", id="no function"),
        pytest.param("def handler(payload):\n    return 1.0\n", "decorate it with @rft_handler", id="not decorated"),
    ],
)
def test_handler_that_cannot_be_run_is_one_line_and_exits_2(tmp_path, text, said, request):
    file = tmp_path / f"unusable_{abs(hash(request.node.name))}.py"
    file.write_text(text)

    result = prove(f"{file}:handler", "--rollouts", "2")

    assert result.exit_code == 2
    assert (result.stdout, result.stderr.count("\n")) == ("", 1)
    assert result.stderr.startswith("Error: ")
    assert said.format(file=file) in result.stderr


def test_module_that_is_missing_is_one_line_and_exits_2():
    result = prove("nowhere.at.all:handler")

    assert (result.exit_code, result.stderr) == (2, "Error: there is no module nowhere.at.all\n")


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["json:loads", "--handler", "json:loads"], id="handler twice"),
        pytest.param(["json:loads", "--deadline", "0"], id="no time"),
        pytest.param(["--skip-tool", "x"], id="tool without handler"),
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
