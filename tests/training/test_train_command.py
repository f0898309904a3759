"""`aws-rft train`: what it refuses before a model is loaded, and what it needs."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from packaging.requirements import Requirement

from aws_rft_sdk import training
from aws_rft_sdk.cli import main
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.training.recipe import read_recipe

HEAVY = ("torch", "transformers", "trl", "peft", "accelerate")
HANDLER = """
from aws_rft_sdk import rft_handler

@rft_handler
def handler(payload):
    return 1.0
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("agent.py").write_text(HANDLER)
    Path("data.jsonl").write_text(json.dumps({"prompt": "2+2?"}) + "\n")
    Path("model").mkdir()
    Path("old").mkdir()
    Path("old/recipe.toml").write_text('[train]\nmodel = "../model"\n')
    Path("wrong.toml").write_text("[hyperparameters]\ngroup_size = 1\n[train]\nkl_coef = -1\n")
    return tmp_path


def train(*arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(main, ["train", *arguments], **options)


ARGUMENTS = ("agent.py:handler", "data.jsonl")
REFUSED = {
    "no-dataset": (("agent.py:handler", "absent.jsonl"), "'absent.jsonl' does not exist"),
    "no-model": ((), "there is no model to train. Give --model, or `model` in [train] of the recipe"),
    "no-folder-of-a-model": (("--model", "./absent"), "there is no folder ./absent with a model"),
    "recipe": (("--recipe", "wrong.toml"), "wrong.toml has 2 problems:"),
    "no-recipe": (("--recipe", "absent.toml"), "'absent.toml' does not exist"),
    "policy": (("--model", "model", "--policy", "standin"), "Give upstream:URL, or leave it out"),
    "engine": (("--model", "model", "--engine", "dask"), "'dask' is not one of"),
    "limit": (("--model", "model", "--limit", "0"), "0 is not in the range"),
    "resume-and-out": (("--resume", "old", "--out", "new"), "Leave out --recipe, --model, --out"),
    "resume-and-model": (("--resume", "old", "--model", "model"), "Leave out --recipe, --model, --out"),
    "resume-of-nothing": (("--resume", "model"), "model/recipe.toml cannot be read"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.usefixtures("folder")
def test_command_when_used_wrongly_then_the_status_is_2_and_nothing_is_written(name: str) -> None:
    arguments, told = REFUSED[name]
    before = sorted(Path().rglob("*"))

    result = train(*(arguments if name == "no-dataset" else (*ARGUMENTS, *arguments)))

    assert (result.exit_code, result.stdout) == (2, "")
    assert told in re.sub(r"\s+", " ", result.stderr)
    assert sorted(Path().rglob("*")) == before


@pytest.mark.skipif(find_spec("trl") is not None, reason="the extra train is installed")
@pytest.mark.usefixtures("folder")
def test_command_when_the_extra_is_missing_then_it_names_what_to_install() -> None:
    result = train(*ARGUMENTS, "--model", "model", "--out", "new")

    assert result.exit_code == 2
    assert "Type: pip install 'aws-rft-sdk[train]'" in result.stderr
    assert not Path("new").exists()


@pytest.mark.usefixtures("folder")
def test_init_when_asked_then_a_first_recipe_is_written_once() -> None:
    first, again = train("--init", "first.toml"), train("--init", "first.toml")

    assert (first.exit_code, again.exit_code) == (0, 2)
    assert "first.toml is written" in first.stdout
    assert "File exists" in again.stderr
    assert read_recipe(Path("first.toml"))[1] == []


def test_base_when_used_then_nothing_of_the_extra_is_imported() -> None:
    code = f"""
import sys, aws_rft_sdk, aws_rft_sdk.training, aws_rft_sdk.training.recipe
from aws_rft_sdk import training
from aws_rft_sdk.cli import main
from aws_rft_sdk.errors import ConfigurationError
for arguments in (["--help"], ["train", "--help"], ["rollout", "--help"], ["demo", "--help"]):
    main(arguments, standalone_mode=False)
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_base_and_dev_when_installed_then_nothing_of_the_extra_comes_with_them() -> None:
    found: set[tuple[str, str]] = set()
    waiting = [("aws-rft-sdk", ""), ("aws-rft-sdk", "dev"), ("aws-rft-sdk", "all")]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # an extra that is not installed, or another platform's
            continue
        for needed in map(Requirement, required):
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                waiting += [(needed.name.lower(), chosen) for chosen in ("", *needed.extras)]
    assert len(found) > 30
    assert {name for name, _ in found} & set(HEAVY) == set()


def test_names_when_the_extra_is_missing_then_they_say_what_to_install_and_the_others_work() -> None:
    told = set()
    for name in training.__all__:
        try:
            assert getattr(training, name).__name__ == name
        except ConfigurationError as error:
            told.add(str(error).rpartition("Type: ")[2])
    assert told == (set() if find_spec("trl") else {"pip install 'aws-rft-sdk[train]'"})
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        _ = training.Trainer  # type: ignore[attr-defined]
