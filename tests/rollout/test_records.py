import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aws_rft_sdk.errors import ConfigurationError, DatasetError
from aws_rft_sdk.rollout import RolloutRecord, RolloutStatus, read_records, summarize
from aws_rft_sdk.rollout.records import RECORDS_FILE, RecordWriter

RECORD = RolloutRecord(
    id="t1", prompt_index=0, sample_index=1, reward=0.5, turns=2, seconds=1.5, status=RolloutStatus.COMPLETED
)


def record(**changes):
    return dataclasses.replace(RECORD, **changes)


def test_written_records_are_read_back_in_order(tmp_path):
    records = [
        RECORD,
        record(id="t2", reward=None, status=RolloutStatus.UNREPORTED, error="RewardError: none"),
        record(id="t3", reward=1.0, rewards=(0.0, 1.0), metrics={"steps": [1, {"x": None}]}),
    ]

    with RecordWriter(tmp_path / "new" / "folder") as writer:
        for item in records:
            writer.write(item)

    assert list(read_records(tmp_path / "new" / "folder")) == records


def test_line_has_the_documented_fields():
    assert set(json.loads(RECORD.to_json())) >= {
        "id",
        "prompt_index",
        "sample_index",
        "reward",
        "turns",
        "seconds",
        "status",
        "error",
    }
    assert json.loads(RECORD.to_json())["status"] == "completed"


def test_existing_records_are_never_overwritten(tmp_path):
    (tmp_path / RECORDS_FILE).write_text("precious")

    with pytest.raises(ConfigurationError, match="exists already"):
        RecordWriter(tmp_path)

    assert (tmp_path / RECORDS_FILE).read_text() == "precious"


@pytest.mark.parametrize("line", ["", "{", "[]", "{}", '{"status": "odd"}'])
def test_line_that_is_no_record_is_refused_with_its_number(tmp_path, line):
    (tmp_path / RECORDS_FILE).write_text(RECORD.to_json() + "\n" + line + "\n")

    with pytest.raises(DatasetError, match="line 2") as raised:
        list(read_records(tmp_path))

    assert raised.value.line == 2


def test_summary_counts_what_the_records_say():
    records = [
        record(prompt_index=0, sample_index=0, reward=1.0, turns=1),
        record(prompt_index=0, sample_index=1, reward=0.0, turns=3, status=RolloutStatus.FAILED),
        record(prompt_index=1, sample_index=0, reward=0.5, unsure_turns=2),
        record(prompt_index=1, sample_index=1, reward=0.5),
        record(prompt_index=2, reward=None, turns=0, status=RolloutStatus.UNREPORTED),
    ]

    summary = summarize(records)

    assert summary.rollouts == 5
    assert summary.unreported == 1
    assert summary.mean_reward == 0.5
    assert summary.success_share == 0.2
    assert summary.failed_share == 0.4
    assert (summary.mean_turns, summary.max_turns) == (1.6, 3)
    assert summary.equal_groups_share == 0.5
    assert summary.unsure_turns == 2


def test_summary_of_nothing_has_no_means():
    summary = summarize([])

    assert summary.rollouts == 0
    assert summary.mean_reward is summary.failed_share is summary.equal_groups_share is None


@given(st.permutations([record(prompt_index=i % 3, reward=i / 7, turns=i) for i in range(9)]))
def test_summary_does_not_depend_on_the_order_in_which_rollouts_ended(records):
    expected = summarize(sorted(records, key=lambda r: r.turns))

    assert summarize(records).mean_reward == pytest.approx(expected.mean_reward)
    assert summarize(records).equal_groups_share == expected.equal_groups_share
