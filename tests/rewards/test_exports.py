import ast
import doctest
import importlib
import inspect
import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from aws_rft_sdk import rewards
from aws_rft_sdk.rewards import Rollout, TextReward

ROLLOUT = Rollout.of_answer("work\n#### The final answer is 4", 4, "2 + 2?")
OBJECTS = [
    rewards.gsm8k,
    rewards.finqa,
    rewards.ExactNumber(tolerance=0.5),
    rewards.ExactMatch(),
    rewards.MultipleChoice(),
    rewards.KeywordCoverage(("work", "play")),
    rewards.JsonSchema({"type": "object"}),
    rewards.Format("a*"),
    rewards.Format.tags("answer"),
    rewards.Format.final_answer(),
    rewards.Format.final_answer(strict=True),
    rewards.Length(5, 10),
    rewards.Repetition(),
    rewards.ToolUse(),
    rewards.Clip(rewards.gsm8k, 0, 0.5),
    rewards.Gate(rewards.gsm8k, rewards.gsm8k),
    rewards.DominantOutcome(rewards.gsm8k, {"short": rewards.Length(5, 10)}),
    rewards.Discounted(rewards.gsm8k),
    rewards.TurnCredit(rewards.gsm8k),
    rewards.CodeTests(),
    rewards.MathVerify(),
]


def test_all_when_read_then_type_checkers_read_the_same():
    seen = {
        alias.name: node.module.removeprefix("aws_rft_sdk.rewards.")
        for node in ast.walk(ast.parse(Path(rewards.__file__).read_text()))
        if isinstance(node, ast.ImportFrom) and node.module.startswith("aws_rft_sdk")
        for alias in node.names
        if alias.asname == alias.name
    }
    assert seen == rewards._HOMES
    assert set(rewards.__all__) == set(seen) <= set(dir(rewards))
    with pytest.raises(AttributeError, match="Nothing"):
        _ = rewards.Nothing


def test_name_when_exported_then_no_module_hides_it():
    """A module is an attribute of its package once it is imported, whatever the package says under that name."""
    modules = {path.stem for path in Path(rewards.__file__).parent.glob("*.py")}
    assert not modules & set(rewards.__all__)


@pytest.mark.parametrize("name", [name for name in rewards.__all__ if not rewards._HOMES[name].startswith("judge")])
def test_name_when_used_then_it_is_there_and_documented(name):
    assert getattr(rewards, name) is getattr(
        importlib.import_module(f"aws_rft_sdk.rewards.{rewards._HOMES[name]}"), name
    )
    if name != "Reward":
        assert inspect.getdoc(getattr(rewards, name))


@pytest.mark.parametrize("module", sorted({home for home in rewards._HOMES.values() if not home.startswith("judge")}))
def test_example_in_a_docstring_when_run_then_it_is_true(module):
    names = {name: getattr(rewards, name) for name in rewards.__all__ if not rewards._HOMES[name].startswith("judge")}
    failed, _ = doctest.testmod(importlib.import_module(f"aws_rft_sdk.rewards.{module}"), extraglobs=names)
    assert failed == 0


@pytest.mark.parametrize("reward", OBJECTS, ids=lambda reward: type(reward).__name__)
def test_reward_when_pickled_then_it_gives_the_same(reward):
    if isinstance(reward, rewards.MathVerify):
        pytest.importorskip("math_verify")
    copy = pickle.loads(pickle.dumps(reward))
    first = rewards.evaluate(reward, ROLLOUT)
    assert rewards.evaluate(copy, ROLLOUT) == rewards.evaluate(reward, ROLLOUT) == first
    assert (copy, hash(copy)) == (reward, hash(reward))
    if isinstance(reward, TextReward):
        assert reward.score(ROLLOUT.answer, ROLLOUT.ground_truth) == first.reward


def test_rewards_when_sent_to_a_process_that_was_started_anew_then_they_give_the_same():
    there = [reward for reward in OBJECTS if not isinstance(reward, rewards.MathVerify)]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        results = list(pool.map(rewards.evaluate, there, [ROLLOUT] * len(there)))
    assert results == [rewards.evaluate(reward, ROLLOUT) for reward in there]


def test_package_when_imported_then_nothing_heavy_is():
    heavy = ("math_verify", "sympy", "jsonschema", "strands", "openai", "botocore", "requests", "subprocess")
    code = f"""
import sys
from aws_rft_sdk.rewards import ExactNumber, JsonSchema, MathVerify, reward_lambda
print([name for name in {heavy!r} if name in sys.modules])"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_sandbox_program_when_read_then_it_stands_in_the_package():
    source_of = importlib.import_module("aws_rft_sdk.rewards.runners").source_of
    assert "landlock" in source_of("_confinement")
    assert "supervisor" in source_of("_sandbox")
