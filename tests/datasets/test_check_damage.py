import os
from pathlib import Path

import pytest
from damage import DAMAGE, make_rows

from aws_rft_sdk import datasets

# Read at import: the environment is cleaned for tests.
REAL = Path(
    os.environ.get("RFT_BEDROCK_TRAIN") or Path(__file__).parents[3] / "shared/data/bedrock-rft/train-100.jsonl"
)


@pytest.fixture(params=["real", "generated"], scope="module")
def rows(request):
    if request.param == "generated":
        return make_rows(100)
    if not REAL.is_file():
        pytest.skip("the real training file is not here; RFT_BEDROCK_TRAIN names it")
    return [dict(row) for _, row in datasets.read_rows(REAL)]


def test_check_when_the_file_is_good_then_it_finds_nothing(tmp_path, rows):
    datasets.write_rows(tmp_path / "d.jsonl", rows)

    report = datasets.check(tmp_path / "d.jsonl", "bedrock", batch_size=4)

    assert (report.ok, report.rows, report.problems) == (True, 100, ())


def test_damage_when_counted_then_there_are_at_least_forty_kinds():
    assert len({param.id for param in DAMAGE}) == len(DAMAGE) >= 40


@pytest.mark.parametrize(("damage", "found"), DAMAGE)
def test_check_when_the_file_is_damaged_then_it_names_rule_line_and_field(request, tmp_path, rows, damage, found):
    path = tmp_path / "d.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in damage(rows)))

    report = datasets.check(path, "bedrock")

    assert found in {(problem.rule, problem.line, problem.field) for problem in report.problems}
    if "for-all" not in request.node.callspec.id and "ids-are" not in request.node.callspec.id:
        assert {problem.line for problem in report.problems} == {found.line}
    assert all(problem.problem and problem.fix for problem in report.problems)
