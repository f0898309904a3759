"""Which rows of a dataset `aws-rft dataset filter` keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from runs.making import record, write_records

from aws_rft_sdk.cli import main
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runs.difficulty import Difficulty, Keep
from aws_rft_sdk.runs.manifest import Manifest, file_sha256

KEPT, EASY, HARD, UNKNOWN = Difficulty.KEPT, Difficulty.TOO_EASY, Difficulty.TOO_HARD, Difficulty.NOT_MEASURED
REWARDS = {"all right": (1.0, 1.0), "all wrong": (0.0, 0.0), "mixed": (1.0, 0.0), "once": (1.0,), "equal": (0.5, 0.5)}


@pytest.mark.parametrize(
    ("keep", "rewards", "share", "differ", "said"),
    [
        ("mixed", 8, 0.5, True, KEPT),
        ("mixed", 8, 1.0, False, EASY),
        ("mixed", 8, 0.0, False, HARD),
        ("mixed", 8, 0.0, True, KEPT),  # rewards differ below the threshold
        ("mixed", 1, 1.0, False, UNKNOWN),
        ("0.2..0.8", 10, 0.2, True, KEPT),
        ("0.2..0.8", 10, 0.8, True, KEPT),
        ("0.2..0.8", 10, 0.1, True, HARD),
        ("0.2..0.8", 10, 0.9, True, EASY),
        ("0.2..0.8", 0, 0.0, False, UNKNOWN),
        ("0..1", 4, 1.0, False, KEPT),
    ],
)
def test_keep_when_a_prompt_is_judged_then_it_is_as_the_rule_says(
    keep: str, rewards: int, share: float, differ: bool, said: Difficulty
) -> None:
    assert Keep.parse(keep).judge(rewards, share, differ=differ) is said


@pytest.mark.parametrize("text", ["", "all", "0.8..0.2", "-1..1", "0..2", "0.5", "a..b", "nan..1", "0.1..0.2..0.3"])
def test_keep_when_it_is_no_rule_then_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"mixed, or a band"):
        Keep.parse(text)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    dataset, folder = tmp_path / "train.jsonl", tmp_path / "run"
    dataset.write_text("".join(json.dumps({"prompt": name, "id": place}) + "\n" for place, name in enumerate(REWARDS)))
    write_records(
        folder,
        *(
            record(f"t-{group}-{sample}", group, sample, reward)
            for group, rewards in enumerate(REWARDS.values())
            for sample, reward in enumerate(rewards)
        ),
    )
    Manifest("agent.py:handler", {}, str(dataset), file_sha256(dataset), len(REWARDS)).write(folder)
    return folder


def filtered(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["dataset", "filter", *map(str, arguments)])
    return done.exit_code, done.output


def test_filter_when_run_then_whole_rows_are_kept_and_the_others_counted(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "kept.jsonl"
    status, said = filtered("--run", run, "--keep", "mixed", "-o", out)
    assert status == 0, said
    assert [json.loads(line) for line in out.read_text().splitlines()] == [{"prompt": "mixed", "id": 2}]
    assert "of 5; left out: 1 too easy, 2 too hard, 1 not measured" in said


def test_filter_when_another_file_is_given_then_rows_are_matched_by_their_prompts(run: Path, tmp_path: Path) -> None:
    other, out = tmp_path / "other.jsonl", tmp_path / "kept.jsonl"
    other.write_text('{"prompt": "new"}\n{"prompt": "mixed", "x": 1}\n')
    assert filtered(other, "--run", run, "--keep", "0.2..0.8", "-o", out)[0] == 0
    assert out.read_text() == '{"prompt": "mixed", "x": 1}\n'


def test_filter_when_nothing_would_be_left_then_nothing_is_written(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "kept.jsonl"
    status, said = filtered("--run", run, "--keep", "0.9..0.95", "-o", out)
    assert status == 2
    assert "no row would be left" in said
    assert not out.exists()


def test_filter_when_the_dataset_has_changed_then_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"prompt": "other"}\n')
    status, said = filtered("--run", run, "--keep", "mixed", "-o", tmp_path / "kept.jsonl")
    assert status == 2
    assert "has changed since" in said
