"""`aws-rft preflight` on folders of runs, with files of jobs in each service's words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from aws_rft_sdk.cli import main
from tests.runs.making import Database, calculating, said

PROMPTS = 48


def line(prompt: int, number: int, **fields: Any) -> dict[str, Any]:
    own = {"trajectory_id": f"t-{prompt}-{number}", "prompt_index": prompt, "sample_index": number}
    tokens = {"prompt_tokens": [100, 200], "response_tokens": [40, 50]}
    ended = {"reward": float((prompt + number) % 2), "turns": 2, "seconds": 3.0, "status": "completed"}
    return {**own, **ended, **tokens, **fields}


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "rollouts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def lines(**fields: Any) -> list[dict[str, Any]]:
    return [line(prompt, number, **fields) for prompt in range(PROMPTS) for number in range(4)]


def preflight(*arguments: object) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(main, ["preflight", "--json", *map(str, arguments)], catch_exceptions=False)
    return done.exit_code, json.loads(done.stdout) if done.stdout else {}


def renamed(row: dict[str, Any]) -> dict[str, Any]:
    return {"id" if name == "trajectory_id" else name: value for name, value in row.items()}


RUNS: dict[str, tuple[list[dict[str, Any]], int, str]] = {
    "mixed": (lines(), 0, "go"),
    "old-id": ([renamed(row) for row in lines()], 0, "go"),
    "all-wrong": (lines(reward=0.0), 1, "no-go"),
    "all-right": (lines(reward=1.0), 1, "no-go"),
    "all-ended-by-a-limit": (lines(reward=None, status="failed", failure="limit", error="Limit: 3"), 1, "no-go"),
    "one-prompt": ([line(0, number) for number in range(8)], 3, "unknown"),
    "never-solved-yet-different": ([{**row, "reward": row["reward"] / 4} for row in lines()], 0, "warn"),
}


@pytest.mark.parametrize("name", RUNS)
def test_preflight_when_it_reads_a_folder_then_the_exit_status_is_the_verdict(tmp_path: Path, name: str) -> None:
    rows, status, verdict = RUNS[name]

    code, said = preflight("--run", write(tmp_path, rows))

    assert (code, said["verdict"]) == (status, verdict)
    assert {"rule", "verdict", "value", "interval", "threshold", "source", "advice"} <= set(said["reasons"][0])


SAGEMAKER = {"global_batch_size": "64", "group_size": "4", "sampling_max_tokens": "512", "max_steps": "10"}
NOVA = {"batchSize": 64, "trainingSamplePerPrompt": 4, "inferenceMaxTokens": 512, "epochCount": 10}
HYPERPOD = {"global_batch_size": 256, "number_generation": 4, "max_new_tokens": 512, "max_steps": 10}


def toml(values: dict[str, Any], table: str = "") -> str:
    return "\n".join([table, *(f"{name} = {json.dumps(value)}" for name, value in values.items())])


JOBS = {
    "flat.toml": toml(SAGEMAKER),
    "recipe.toml": toml({name: int(value) for name, value in SAGEMAKER.items()}, "[hyperparameters]"),
    "nova.toml": toml(NOVA, "[hyperparameters]"),
    "hyperpod.toml": toml({"on": "hyperpod"}, "[recipe]") + "\n" + toml(HYPERPOD, "[hyperparameters]"),
    "document.json": json.dumps({"TrainingConfig": {"HyperParameters": SAGEMAKER}}),
}


@pytest.mark.parametrize("name", JOBS)
def test_preflight_when_a_job_is_given_in_any_words_then_its_limits_are_judged(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(JOBS[name])

    code, said = preflight("--run", write(tmp_path, lines(response_tokens=[40, 512])), "--job", tmp_path / name)

    rules = {reason["rule"]: reason for reason in said["reasons"]}
    assert code == 1
    assert rules["prompts_vs_batch"]["verdict"] == "no-go"  # 48 prompts, 64 in a step
    assert rules["token_cap"]["verdict"] == "warn"
    assert (said["estimates"]["rollouts_per_step"], said["estimates"]["steps"]) == (256, 10)


def test_preflight_when_the_job_has_a_threshold_then_success_is_counted_by_it(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text("success_threshold = 0.25")
    folder = write(tmp_path, RUNS["never-solved-yet-different"][0])

    assert preflight("--run", folder, "--job", tmp_path / "job.toml")[1]["verdict"] == "go"


def test_preflight_when_prices_are_given_then_figures_follow_from_the_records(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(
        "global_batch_size = 10\ngroup_size = 4\nmax_steps = 5\nrollout_max_concurrency = 2"
    )
    (tmp_path / "prices.toml").write_text("prefill = 1\nsample = 10.0\ntrain = 100")

    _, said = preflight(
        *("--run", write(tmp_path, lines()), "--job", tmp_path / "job.toml", "--prices", tmp_path / "prices.toml")
    )

    assert said["estimates"] == {
        "rollouts_per_step": 40,
        "steps": 5,
        "rollouts": 200,
        "validation_rollouts": None,
        "start_seconds_per_step": 8.0,
        "rollouts_in_progress": 2,
        "rollout_hours": pytest.approx(200 * 3 / 2 / 3600),
        "hours": None,
        "prefill_tokens": 200 * 300,
        "sample_tokens": 200 * 90,
        "train_tokens": 200 * 250,
        "cost": pytest.approx((200 * 300 + 10 * 200 * 90 + 100 * 200 * 250) / 1e6),
        "price_source": "your prices",
        "worker_peak_bytes": None,
    }


@pytest.mark.parametrize("text", ["train = -1", "train = true", "tokens = 1", 'train = "1"'])
def test_preflight_when_a_price_is_none_then_it_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "prices.toml").write_text(text)

    assert preflight("--run", write(tmp_path, lines()), "--prices", tmp_path / "prices.toml")[0] == 2


def test_preflight_when_nothing_is_known_of_a_job_then_its_figures_are_none(tmp_path: Path) -> None:
    _, said = preflight("--run", write(tmp_path, lines()))

    assert {name for name, value in said["estimates"].items() if value is not None} == {"rollouts_in_progress"}
    assert said["fidelity"] is None


def test_preflight_and_show_when_an_agent_changed_a_history_then_both_say_so(tmp_path: Path) -> None:
    asked, called = calculating()
    edited = [said("system", "Calculate fast."), *called[0][1:]]
    with Database(tmp_path) as database:
        database.add("t-0-0", [asked, called])
        database.add("t-0-1", [asked, (edited, called[1])])
    folder = write(tmp_path, lines())

    _, found = preflight("--run", folder)
    shown = CliRunner().invoke(main, ["show", str(folder), "t-0-1"], catch_exceptions=False).output
    clean = CliRunner().invoke(main, ["show", str(folder), "t-0-0"], catch_exceptions=False).output

    assert found["fidelity"] == {
        **{"recorded": 2, "trajectories": 2, "broken": 1, "broken_share": 0.5, "rows": 3},
        "causes": {"system_prompt_changed": 1},
    }
    assert "2 training rows" in shown
    assert "turn 1 does not go on from turn 0: system_prompt_changed" in shown
    assert "history changed" not in clean


def test_preflight_when_a_reward_is_named_then_its_adversaries_are_tried(tmp_path: Path) -> None:
    (tmp_path / "reward.py").write_text("def always(rollout):\n    return 1.0\n")
    case = {"prompt": "2 + 2?", "answer": "4", "ground_truth": "4", "expected": 1.0, "kind": "success"}
    wrong = {**case, "answer": "5", "expected": 0.0, "kind": "failure"}
    (tmp_path / "cases.jsonl").write_text(f"{json.dumps(case)}\n{json.dumps(wrong)}\n")
    folder = write(tmp_path, lines())

    code, found = preflight("--run", folder, "--reward", f"{tmp_path}/reward.py:always", tmp_path / "cases.jsonl")

    assert code == 0  # it is said, and does not judge the run
    assert found["reward_test"]["breaches"]


def test_preflight_when_a_reward_is_not_there_then_nothing_is_run(tmp_path: Path) -> None:
    for name in ("train", "cases"):
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "p", "answer": "a", "expected": 1.0}\n')
    files = (f"{tmp_path}/agent.py:handler", f"{tmp_path}/train.jsonl", "--out", f"{tmp_path}/run")

    assert preflight(*files, "--reward", f"{tmp_path}/none.py:reward", f"{tmp_path}/cases.jsonl")[0] == 2
    assert not (tmp_path / "run").exists()
