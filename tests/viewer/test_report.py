"""`aws-rft report`: every figure is computed again from the records."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import fmean

import pytest
from click.testing import CliRunner
from runs.making import Database, calculating, record, said, write_records

from aws_rft_sdk.cli import main
from aws_rft_sdk.runs import RolloutStatus, measure, read_records
from aws_rft_sdk.runs.preflight.histories import read_histories

REWARDS = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.25, 1.0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two groups of four and a failed rollout. The agent changed the system prompt in t-1, t-3, t-5 and t-7."""
    path = tmp_path_factory.mktemp("runs") / "run"
    tokens = [{"prompt_tokens": [10 + n, 20 + n], "response_tokens": [5, 7 + n], "seconds": 1.0 + n} for n in range(9)]
    records = [record(f"t-{n}", n // 4, n % 4, reward, **tokens[n]) for n, reward in enumerate(REWARDS)]
    failed = {"status": RolloutStatus.FAILED, "error": "ValueError: no", "failure": "tool", "traceback": "Traceback: x"}
    records.append(record("t-8", 2, 0, None, **failed, **tokens[8]))
    with Database(path) as database:
        for number, one in enumerate(records):
            asked, called = calculating(f"Question {one.prompt_index}?")
            edited = ([said("system", "Calculate fast."), *called[0][1:]], called[1])
            turns = [asked, edited if number % 2 else called]
            database.add(one.trajectory_id, turns, rewards=None if one.reward is None else (one.reward,))
    return write_records(path, *records)


def report(*arguments: object) -> str:
    out = Path(str(arguments[-1]))
    done = CliRunner().invoke(main, ["report", *map(str, arguments[:-1]), "-o", str(out)])
    assert done.exit_code == 0, done.output
    return out.read_text()


def marked(page: str, kind: str) -> dict[str, float]:
    found = re.findall(rf'data-{kind}="([^"]+)">([^<]+)<', page)
    return {name: float(text.replace(",", "")) for name, text in found}


def test_report_when_written_then_its_figures_and_rollouts_are_those_of_the_records(
    folder: Path, tmp_path: Path
) -> None:
    page = report(folder, tmp_path / "report.html")
    expected = {n: v for n, v in measure(read_records(folder)).to_dict().items() if v is not None}
    assert marked(page, "figure") == pytest.approx(expected, rel=1e-4)
    for text in ("Question 2?", "ValueError: no", "It is 42."):
        assert text in page


def test_report_when_written_then_verdict_and_reasons_are_those_of_preflight(folder: Path, tmp_path: Path) -> None:
    page = report(folder, tmp_path / "report.html")
    said = json.loads(CliRunner().invoke(main, ["preflight", "--run", str(folder), "--json"]).stdout)
    rows = re.findall(r'<th scope="row">(\w+)</th><td>([\w-]+)</td>', page)
    assert rows == [(reason["rule"], reason["verdict"]) for reason in said["reasons"]]
    assert f">{said['verdict']}</span>" in page


def test_report_when_a_job_is_named_then_what_it_takes_follows_from_the_records(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text("global_batch_size = 10\ngroup_size = 4\nmax_steps = 500")
    (tmp_path / "prices.toml").write_text("prefill = 1.0\nsample = 10.0\ntrain = 100.0")
    page = report(
        *(folder, "--job", tmp_path / "job.toml", "--prices", tmp_path / "prices.toml"), tmp_path / "report.html"
    )
    rollouts, records = 500 * 10 * 4, list(read_records(folder))
    read, answered = (
        (sum(one.prompt_tokens or ()) for one in records),
        (sum(one.response_tokens or ()) for one in records),
    )
    tokens = {"prefill": fmean(read), "sample": fmean(answered), "train": fmean(20 + n + 7 + n for n in range(9))}
    seconds = fmean(one.seconds for one in records)
    shown = marked(page, "estimate")
    assert shown == pytest.approx(
        {
            "rollouts_per_step": 40,
            "steps": 500,
            "rollouts": rollouts,
            "start_seconds_per_step": 40 / 5,
            "rollouts_in_progress": max(1.0, 5 * seconds),
            "rollout_hours": rollouts / 5 / 3600,
            **{f"{kind}_tokens": rollouts * count for kind, count in tokens.items()},
            "cost": rollouts * (tokens["prefill"] + 10 * tokens["sample"] + 100 * tokens["train"]) / 1e6,
        },
        rel=1e-3,
    )


def test_report_when_the_agent_changed_histories_then_it_says_how_many_were_read_and_changed(
    folder: Path, tmp_path: Path
) -> None:
    page = report(folder, tmp_path / "report.html")
    assert marked(page, "history") == {"broken": 4, "rows": 9 + 4, "system_prompt_changed": 4}
    assert "All 9 recorded rollouts were read." in page
    # Of a larger run rollouts are read from its first to its last.
    found = read_histories(folder / "trajectories.db", most=3)
    assert found is not None
    assert (found.recorded, found.trajectories, found.broken) == (9, 3, 1)  # t-0, t-3 and t-6
    assert "changed the history of 1 of 3 rollouts that were read, of 9 " in str(found)


def test_report_when_a_run_has_no_rollouts_then_it_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "rollouts.jsonl").write_text("")
    done = CliRunner().invoke(main, ["report", str(tmp_path / "run"), "-o", str(tmp_path / "report.html")])
    assert (done.exit_code, "has no rollouts yet" in done.output) == (2, True)
    assert not (tmp_path / "report.html").exists()
