"""The example of a verifiable reward: dataset, bench, rollouts and Lambda handler, each for real."""

import ast
import importlib.util
import json
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from aws_rft_sdk import datasets
from aws_rft_sdk.cli import main
from aws_rft_sdk.rewards import Rollout, check_reply, evaluate
from aws_rft_sdk.runs.records import read_records

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "math_rlvr"
PROBLEMS = [json.loads(line) for line in (EXAMPLE / "problems.jsonl").read_text().splitlines()]


def load(name: str) -> ModuleType:
    """Load a file of the example under a name that no other module has, its neighbours under their own."""
    if str(EXAMPLE) not in sys.path:
        sys.path.append(str(EXAMPLE))
    spec = importlib.util.spec_from_file_location(f"math_rlvr_{name}", EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


prepare, policy, same_scores = load("prepare"), load("policy"), load("same_scores")
math_reward = sys.modules["math_reward"]


def run(*arguments: str | Path) -> str:
    """Run the command in a process of its own, as its user does."""
    command = [sys.executable, "-c", "from aws_rft_sdk.cli import main; main()", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number):
            return Fraction(str(number))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -value(operand)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return value(left) + value(right)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return value(left) - value(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return value(left) * value(right)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return value(left) / value(right)
    raise AssertionError(ast.unparse(node))


@pytest.mark.parametrize("problem", PROBLEMS, ids=range(1, len(PROBLEMS) + 1))
def test_problem_when_its_calculations_are_done_again_then_they_are_right(problem: dict[str, str]) -> None:
    calculations = re.findall(r"<<([^=]+)=([^>]+)>>", problem["answer"])
    assert calculations
    for expression, result in calculations:
        assert value(ast.parse(expression, mode="eval").body) == Fraction(result)
    assert evaluate(math_reward.reward, Rollout.of_answer(problem["answer"], problem["answer"])).reward == 1.0


def test_example_when_run_as_the_readme_says_then_handler_and_rollouts_agree(tmp_path: Path) -> None:
    counts = prepare.prepare(tmp_path / "prompts")
    assert sum(counts.values()) == len(PROBLEMS)
    run(
        *("rollout", EXAMPLE / "agent.py:handler", tmp_path / "prompts/train.jsonl", "--group-size", "5"),
        *("--policy", f"callable:{EXAMPLE / 'policy.py'}:policy", "--out", tmp_path / "rollouts"),
    )
    records = {record.trajectory_id: record.reward for record in read_records(tmp_path / "rollouts")}

    compared = same_scores.compare(tmp_path / "rollouts")

    assert len(compared) == len(records) == 5 * counts["train.jsonl"]
    assert [score for _, _, score in compared] == [reward for _, reward, _ in compared]
    assert {name: reward for name, reward, _ in compared} == records
    of_habits = sorted([1.1, 0.1, 1.0, 1.0, 0.0] * counts["train.jsonl"])
    assert sorted(reward for _, reward, _ in compared) == pytest.approx(of_habits)
    script = subprocess.run(
        [sys.executable, str(EXAMPLE / "same_scores.py"), str(tmp_path / "rollouts")], capture_output=True, text=True
    )
    assert (script.returncode, script.stderr) == (0, "")
    assert f"{len(records)} rollouts, 0 with another score" in script.stdout


def test_prompts_when_prepared_then_model_never_sees_the_answer(tmp_path: Path) -> None:
    prepare.prepare(tmp_path)
    answers = {problem["question"]: datasets.final_answer(problem["answer"]) for problem in PROBLEMS}
    cells = [cell for name in ("train.jsonl", "validation.jsonl") for cell in datasets.read_prompts(tmp_path / name)]
    assert len(cells) == len(answers)
    for cell in map(datasets.unpack, cells):
        question = str(cell.question).rpartition("Question: ")[2].partition("\nSolution:")[0]
        assert cell.ground_truth == answers[question]
        assert set(cell.visible) == {"question"}
        assert not re.search(rf"(?<!\d){re.escape(cell.ground_truth)}(?!\d)", question)


def test_reward_when_tested_by_the_bench_then_no_breach() -> None:
    reference = f"{EXAMPLE / 'math_reward.py'}:reward"
    report = json.loads(run("reward", "test", reference, EXAMPLE / "cases.jsonl", "--json", "--max-seconds", "60"))
    assert report["breaches"] == []


def test_reward_when_a_case_expects_something_else_then_the_bench_fails(tmp_path: Path) -> None:
    lines = (EXAMPLE / "cases.jsonl").read_text().splitlines()
    (tmp_path / "cases.jsonl").write_text(
        "\n".join([json.dumps({**json.loads(lines[0]), "expected": 0.9}), *lines[1:]])
    )
    arguments = ["reward", "test", f"{EXAMPLE / 'math_reward.py'}:reward", str(tmp_path / "cases.jsonl")]
    assert CliRunner().invoke(main, arguments).exit_code == 1


def test_handler_when_an_event_has_every_shape_and_a_bad_row_then_all_ids_are_answered() -> None:
    answer = "It falls.\n#### The final answer is -11"
    text = [{"role": "assistant", "content": answer}]
    parts = [{"role": "nova_assistant", "content": [{"type": "text", "text": answer}]}]
    event = [
        {"id": "a", "messages": text, "metadata": {"reference_answer": "-11"}},
        {"id": "b", "messages": parts, "reference_answer": "-11"},
        {"id": "c", "messages": text, "reference_answer": {"text": "-11"}},
        {"id": "d", "messages": "broken"},
    ]

    reply = math_reward.handler(event, None)

    assert check_reply(event, reply) == []
    assert [row["aggregate_reward_score"] for row in reply] == pytest.approx([1.1, 1.1, 1.1, 0.0])


def test_policy_when_asked_something_else_then_says_what_it_knows() -> None:
    with pytest.raises(LookupError, match=r"problems\.jsonl"):
        policy.policy({"messages": [{"role": "user", "content": "What is love?"}]})
