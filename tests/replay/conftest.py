import contextlib
import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from aws_rft_sdk.cli import main

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(*arguments):
    """Run `aws-rft` and return its result."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def contents(folder):
    """Return name, size, time and hash of each file of a folder."""
    return {
        path.name: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in folder.iterdir()
    }


def _is_loaded_by_us(module):
    file = getattr(module, "__file__", None) or ""
    return str(EXAMPLES) in file or "pytest-" in file


@contextlib.contextmanager
def fresh_imports():
    """Import examples, and changed copies of them, anew; then put back what was imported before."""
    path, before = list(sys.path), {name: module for name, module in sys.modules.items() if _is_loaded_by_us(module)}
    for name in before:
        del sys.modules[name]
    try:
        yield
    finally:
        sys.path[:] = path
        for name in [name for name, module in sys.modules.items() if _is_loaded_by_us(module)]:
            del sys.modules[name]
        sys.modules.update(before)


@pytest.fixture(autouse=True)
def clean_imports():
    with fresh_imports():
        yield


def _record(folder, example, dataset, *options):
    with fresh_imports():
        result = run("rollout", f"{EXAMPLES}/{example}/agent.py:handler", dataset, "--out", folder, *options)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="session")
def calculations(tmp_path_factory):
    """Return a folder with 6 rollouts of the calculator example: 3 problems, 2 samples each."""
    folder = tmp_path_factory.mktemp("calculations") / "out"
    problems = EXAMPLES / "gsm8k_calculator" / "problems.jsonl"
    return _record(folder, "gsm8k_calculator", problems, "--limit", 3, "--group-size", 2)


@pytest.fixture(scope="session")
def word_problems(tmp_path_factory):
    """Return a folder with 15 rollouts of the math example, and its dataset beside it: 3 problems, 5 samples each."""
    folder = tmp_path_factory.mktemp("word_problems")
    rows = (EXAMPLES / "math_rlvr" / "problems.jsonl").read_text().splitlines()[:3]
    cells = [json.loads(row) for row in rows]
    dataset = folder / "asked.jsonl"
    dataset.write_text("".join(json.dumps(_packed(cell)) + "\n" for cell in cells))
    _record(folder / "out", "math_rlvr", dataset, "--group-size", 5)
    return folder


def _packed(cell):
    from aws_rft_sdk.datasets import few_shot_prompt, final_answer, pack

    truth = final_answer(cell["answer"])
    return {"prompt": pack(question=few_shot_prompt(cell["question"]), ground_truth=truth), "number": truth}


@pytest.fixture
def example(tmp_path):
    """Return a copy of the calculator example, to be changed."""
    folder = tmp_path / "example"
    shutil.copytree(EXAMPLES / "gsm8k_calculator", folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder
