"""`aws-rft train` as a user runs it, on a tiny model in a folder."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from extras import needs

from aws_rft_sdk.cli import main
from aws_rft_sdk.jobs.steps import read_steps

pytestmark = [needs("train"), pytest.mark.timeout(300)]  # several times as long where others use the processors

# Takes the share of small letters in the answer for the reward. From the third step on it waits for a file.
AGENT = """
import itertools, threading
from pathlib import Path
import requests
from aws_rft_sdk import RFTContext, rft_handler

began = itertools.count()

@rft_handler(on_error="failed")
def handler(payload):
    url = payload["metadata"]["endpoint"] + "/v1/chat/completions"
    body = {"model": "default", "messages": [{"role": "user", "content": payload["prompt"]}]}
    answer = requests.post(url, headers=RFTContext.get_headers(), json=body, timeout=60)
    answer.raise_for_status()
    print("NOISE")
    if next(began) >= 16 and not Path("go").exists():
        threading.Event().wait(120)
    text = answer.json()["choices"][0]["message"]["content"] or ""
    return sum("a" <= letter <= "z" for letter in text) / 6
"""
RECIPE = """
[job]
on = "bedrock"
[hyperparameters]
global_batch_size = 2
group_size = "4"
max_steps = 4
max_epochs = 4
sampling_max_tokens = 8
learning_rate = "1e-2"
val_every = 0
save_every = 1
lora_rank = 4
lora_alpha = 8
[train]
model = "model"
device = "cpu"
"""
ARGUMENTS = ("train", "agent.py:handler", "data.jsonl")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from tiny import tiny_model, tiny_tokenizer

    monkeypatch.chdir(tmp_path)
    tokenizer = tiny_tokenizer()
    tiny_model(tokenizer).save_pretrained("model")
    tokenizer.save_pretrained("model")
    for name, words in {"data": ("one", "two", "three", "four"), "held": ("five", "six")}.items():
        Path(f"{name}.jsonl").write_text("".join(json.dumps({"prompt": f"say {word}"}) + "\n" for word in words))
    Path("agent.py").write_text(AGENT)
    Path("recipe.toml").write_text(RECIPE)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def steps(folder: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, "steps.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("folder")
def test_training_when_done_then_other_commands_read_its_folder_and_peft_its_adapter() -> None:
    from peft import AutoPeftModelForCausalLM

    Path("go").touch()

    result = run(*ARGUMENTS, "--recipe", "recipe.toml", "--validation", "held.jsonl", "--out", "out", "--json")

    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["reward"] == {"first": steps("out")[1]["reward_mean"], "last": steps("out")[4]["reward_mean"]}
    assert set(report["validation"]) == {"before", "after"}
    assert {name: report[name] for name in ("folder", "steps", "rollouts", "failed_rollouts", "dropped_groups")} == {
        **{"folder": "out", "steps": 4, "rollouts": 32, "failed_rollouts": 0, "dropped_groups": 0},
    }
    assert set(report) - {
        "folder",
        "steps",
        "reward",
        "validation",
        "rollouts",
        "failed_rollouts",
        "dropped_groups",
    } == {
        *("model", "dead_groups", "rows", "broken_rows", "seconds"),
    }
    said = result.stderr.splitlines()
    assert "note: [job] is for a training job; local training does not use it" in said
    assert [line.split("reward")[0].split() for line in said if line.startswith("  step   4")] == [
        ["step", "4", "of", "4"]
    ]
    assert "FutureWarning" not in result.stderr
    adapter = AutoPeftModelForCausalLM.from_pretrained(report["model"])
    assert any(bool(weights.any()) for name, weights in adapter.named_parameters() if "lora_B" in name)
    for command in (
        ("metrics", "out/train"),
        ("compare", "out/validation-0", "out/validation-4"),
        ("job", "report", "--events", "out/steps.jsonl", "-o", "report.html"),
    ):
        looked = run(*command)
        assert looked.exit_code == 0, looked.stderr
    again = run(*ARGUMENTS, "--recipe", "recipe.toml", "--out", "out")
    assert again.exit_code == 2
    wrong = run("train", "agent.py:absent", "data.jsonl", "--recipe", "recipe.toml", "--out", "new")
    assert (wrong.exit_code, "agent.py has no 'absent'" in wrong.stderr, Path("new").exists()) == (2, True, False)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
@pytest.mark.usefixtures("folder")
def test_training_when_interrupted_then_it_says_how_to_go_on_and_goes_on() -> None:
    command = [sys.executable, "-m", "aws_rft_sdk.training", *ARGUMENTS[1:], "--recipe", "recipe.toml", "--out", "out"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        while "step   2 of 4" not in said and (line := process.stderr.readline()):
            said += line
        process.send_signal(signal.SIGTERM)  # has the handler that SIGINT has anyway
        out, rest = process.communicate(timeout=120)
    Path("go").touch()

    resumed = run(*ARGUMENTS, "--resume", "out", "--json")

    assert (process.returncode, out) == (130, ""), said + rest
    assert (
        "stopped. Go on from the last checkpoint with: aws-rft train agent.py:handler data.jsonl --resume out" in rest
    )
    assert resumed.exit_code == 0, resumed.stderr
    # The record of step 2 was written, and its checkpoint perhaps not, so the step may have run twice.
    assert [step.step for step in read_steps("out/steps.jsonl")] == [1, 2, 3, 4]
    assert json.loads(resumed.stdout)["rollouts"] == 32
