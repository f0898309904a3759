"""Trajectories out of a file, one at a time."""

import json
import sqlite3

import pytest

from aws_rft_sdk import LocalRuntime
from aws_rft_sdk.errors import ConfigurationError, DatasetError
from aws_rft_sdk.runtime import TrajectoryReader, read_trajectories
from tests.replay.conftest import contents, run
from tests.replay.recording import make_handler, record


def test_reader_when_the_file_is_closed_then_it_gives_all_and_leaves_nothing_behind(tmp_path):
    records = record(tmp_path, make_handler(), "abc")
    tmp_path.chmod(0o555)
    before = sorted(path.name for path in tmp_path.iterdir())

    with TrajectoryReader(tmp_path / "trajectories.db") as reader:
        assert [trajectory.trajectory_id for trajectory in reader] == [item.trajectory_id for item in records]
        assert reader.find(records[1].trajectory_id).prompt == "b"
        assert reader.find("nobody") is None
        assert len(reader) == 3

    assert sorted(path.name for path in tmp_path.iterdir()) == before
    tmp_path.chmod(0o755)


def test_reader_when_a_runtime_writes_then_it_sees_what_is_durable(tmp_path):
    record(tmp_path, make_handler(), "a")
    with LocalRuntime(db=tmp_path / "trajectories.db") as runtime:
        first = runtime.new_rollout("b")["metadata"]["rolloutId"]
        with TrajectoryReader(tmp_path / "trajectories.db") as reader:
            assert reader.find(first).prompt == "b"
            second = runtime.new_rollout("c")["metadata"]["rolloutId"]
            assert reader.find(second).prompt == "c"
            assert len(list(reader)) == 3

    assert len(read_trajectories(tmp_path / "trajectories.db")) == 3


def test_reader_when_the_file_is_empty_of_trajectories_then_it_gives_none(tmp_path):
    with LocalRuntime(db=tmp_path / "t.db"):
        pass

    with TrajectoryReader(tmp_path / "t.db") as reader:
        assert (list(reader), len(reader), bool(reader)) == ([], 0, True)


def test_reader_when_a_row_is_damaged_then_what_comes_before_is_given(tmp_path):
    records = record(tmp_path, make_handler(), "abc")
    with sqlite3.connect(tmp_path / "trajectories.db") as connection:
        connection.execute("UPDATE trajectories SET status = 'ODD' WHERE number = 1")
    connection.close()

    with TrajectoryReader(tmp_path / "trajectories.db") as reader:
        trajectories = iter(reader)
        assert next(trajectories).trajectory_id == records[0].trajectory_id
        with pytest.raises(DatasetError, match="trajectory 1"):
            next(trajectories)
        with pytest.raises(DatasetError, match=records[1].trajectory_id):
            reader.find(records[1].trajectory_id)
        assert reader.find(records[2].trajectory_id) is not None


def test_reader_when_there_is_no_file_then_it_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="no database file"):
        TrajectoryReader(tmp_path / "none.db")


def test_export_when_done_then_each_trajectory_is_a_line_and_nothing_is_left_beside_the_database(tmp_path):
    folder = tmp_path / "out"
    record(folder, make_handler(), "abc")
    before = contents(folder)

    result = run("export", folder / "trajectories.db", tmp_path / "recording.jsonl")

    assert result.exit_code == 0, result.output
    rows = [json.loads(row) for row in (tmp_path / "recording.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["a", "b", "c"]
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("out", "says"),
    [
        pytest.param("nowhere/recording.jsonl", "cannot be written: No such file", id="no-folder"),
        pytest.param("trajectories.db", "is the database itself", id="onto-itself"),
    ],
)
def test_export_when_it_cannot_be_written_there_then_usage_error_says_so(tmp_path, out, says):
    record(tmp_path, make_handler(), "a")
    before = contents(tmp_path)

    result = run("export", tmp_path / "trajectories.db", tmp_path / out)

    assert result.exit_code == 2
    assert says in " ".join(result.output.split())
    assert contents(tmp_path) == before
