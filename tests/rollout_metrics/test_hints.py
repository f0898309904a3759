import dataclasses
import inspect
import re
from pathlib import Path

import pytest

from aws_rft_sdk.runs.metrics import hints, measure

from .support import COMPLETED, FAILED, record, table

MIXED = [[1, 0], [0, 1], [1, 1]] * 10
PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def rules(records, **options):
    return [hint.rule for hint in hints(measure(records, resamples=10, **options))]


def test_nothing_is_said_of_a_sound_run():
    assert rules(table(*MIXED)) == []


@pytest.mark.parametrize(
    ("records", "said"),
    [
        pytest.param([], ["nothing-ended"], id="empty"),
        pytest.param(table(*MIXED, [1, None]), ["unreported", "failed-share"], id="one-lost"),
        pytest.param(table(*MIXED, [1, None], status=COMPLETED), ["no-reward"], id="one-without"),
        pytest.param([record(p, 0, 0.0, status=FAILED) for p in range(30)], ["failed-share"], id="all-failed"),
        pytest.param(
            [*table(*MIXED), *(record(99, n, 0.0, status=FAILED) for n in range(2))], ["failed-share"], id="failed"
        ),
        pytest.param(table(*[[0, 0]] * 30), ["all-zero", "too-hard"], id="all-zero"),
        pytest.param(table(*[[-1, -1]] * 30), ["too-hard"], id="too-hard"),
        pytest.param(table(*[[1, 1]] * 30), ["too-easy"], id="too-easy"),
        pytest.param(table(*[[1, 1]] * 15, *[[1, 0]] * 15), [], id="half-is-not-too-easy"),
        pytest.param(table(*[[0.5, 0.5]] * 30), ["no-variance"], id="partial-credit"),
        pytest.param(table(*MIXED, seconds=700.0), ["slow"], id="slow"),
        pytest.param(table([1, 0]), ["few-prompts"], id="few"),
        pytest.param(table(*[[0.1, 0.2]] * 30, turns=12), ["looping"], id="looping"),
        pytest.param(table(*[[0.1, 0.2]] * 30, response_tokens=(3,)), ["short-answers"], id="short"),
        pytest.param([*table(*MIXED), record(40, 0, turns=30), record(40, 1, 0)], ["turn-spread"], id="turn-spread"),
    ],
)
def test_what_stands_out_is_said(records, said):
    assert rules(records) == said


def long_answers(share):
    return [
        record(n, s, float(s), response_tokens=(100, 4096 if n < 100 * share else 200))
        for n in range(100)
        for s in range(2)
    ]


@pytest.mark.parametrize(("share", "said"), [(0.1, ["truncated"]), (0.05, []), (0.0, [])])
@pytest.mark.parametrize("options", [{"max_tokens": 4096}, {}])
def test_many_answers_at_the_limit_were_cut_off(share, said, options):
    assert rules(long_answers(share), **options) == said


def test_equal_answers_that_are_not_long_were_not():
    assert rules(table(*MIXED, response_tokens=(20, 20))) == []


def test_run_that_mixes_versions_of_the_code_says_so():
    records = table(*MIXED, sdk_version="0.1.0", handler_hash="abc")
    old = [dataclasses.replace(r, sdk_version=None, handler_hash=None) for r in records[:3]]

    assert rules(records) == []
    assert rules([*records[3:], *old]) == ["mixed-run"]
    (hint,) = hints(measure([*records[3:], *old], resamples=20))
    assert f"{len(records) - 3} of aws-rft-sdk 0.1.0, handler abc" in hint.text
    assert "3 of aws-rft-sdk (unknown), handler (unknown)" in hint.text


def test_every_rule_is_in_the_documentation_and_no_other():
    listed = re.findall(r"^\| `([a-z-]+)` \|", PAGE.read_text(), re.MULTILINE)

    assert sorted(listed) == sorted(
        set(re.findall(r"(?:yield|Hint\()\s*\(?\s*\"([a-z-]+)\"", Path(inspect.getsourcefile(hints)).read_text()))
    )
