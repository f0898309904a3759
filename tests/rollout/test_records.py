import dataclasses
import json
import math
from array import array

import pytest

from aws_rft_sdk.errors import DatasetError
from aws_rft_sdk.failures import FailureKind, describe_traceback, error_type
from aws_rft_sdk.rollout import RolloutRecord, RolloutStatus, read_records
from aws_rft_sdk.rollout._appending import AppendedFile
from aws_rft_sdk.runs.records import RECORDS_FILE, latest_records
from aws_rft_sdk.runs.table import RolloutTable

RECORD = RolloutRecord(
    trajectory_id="t1", prompt_index=0, sample_index=1, reward=0.5, turns=2, seconds=1.5, status=RolloutStatus.COMPLETED
)
RECORDS = [
    RECORD,
    dataclasses.replace(
        RECORD,
        trajectory_id="t2",
        sample_index=2,
        reward=None,
        status=RolloutStatus.UNREPORTED,
        error="RewardError: ü\n",
    ),
    dataclasses.replace(
        RECORD,
        trajectory_id="t3",
        sample_index=3,
        rewards=(0.0, 1.0),
        metrics={"steps": [1, {"x": None}]},
        state={"rows": [{"id": 7}], "": []},
        prompt_tokens=(5, 7),
        response_tokens=(1, 2),
        attempts=3,
    ),
]


def write(folder, records):
    with AppendedFile(folder / RECORDS_FILE) as file:
        for record in records:
            file.append(record.to_json())


def test_records_when_written_then_they_are_read_back_in_order(tmp_path):
    write(tmp_path, RECORDS)

    assert list(read_records(tmp_path)) == RECORDS


def test_record_when_written_by_an_older_version_then_the_new_fields_have_their_defaults(tmp_path):
    old = {name: value for name, value in json.loads(RECORD.to_json()).items() if "tokens" not in name}
    del old["attempts"]
    (tmp_path / RECORDS_FILE).write_text(json.dumps(old) + "\n")

    assert list(read_records(tmp_path)) == [RECORD]


def test_record_when_written_then_it_has_the_documented_fields():
    fields = json.loads(dataclasses.replace(RECORD, traceback="Traceback", state=0).to_json())
    assert json.loads(RECORD.to_json()).keys() == fields.keys() - {"traceback", "state"}  # nearly all are without
    assert fields.keys() == {field.name for field in dataclasses.fields(RolloutRecord)}
    assert fields["status"] == "completed"


def test_records_when_a_rollout_was_repeated_then_its_last_record_counts(tmp_path):
    again = dataclasses.replace(RECORD, trajectory_id="t4", attempts=2)
    write(tmp_path, [*RECORDS, again])

    assert list(read_records(tmp_path)) == [*RECORDS[1:], again]
    assert list(read_records(tmp_path, superseded=True)) == [*RECORDS, again]
    assert latest_records([]) == []


def changed(**fields):
    return json.dumps({**json.loads(RECORD.to_json()), **fields})


NO_RECORDS = [
    pytest.param("", id="blank"),
    pytest.param("{", id="cut"),
    pytest.param("[]", id="array"),
    pytest.param("{}", id="empty"),
    pytest.param("[" * 100_000, id="deep"),
    pytest.param('{"level": "info", "message": "a log line"}', id="foreign"),
    pytest.param(changed(status="odd"), id="status"),
    pytest.param(changed(prompt_index=[1]), id="index"),
    pytest.param(changed(reward="high"), id="reward"),
    pytest.param(changed(turns=1.5), id="turns"),
    pytest.param(changed(seconds=None), id="seconds"),
    pytest.param(changed(metrics=5, reward=0.0), id="metrics"),
]


@pytest.mark.parametrize("line", NO_RECORDS)
def test_line_when_it_is_no_record_then_it_is_named_and_the_rest_is_used(tmp_path, line, caplog):
    (tmp_path / RECORDS_FILE).write_text("\n".join([RECORD.to_json(), line, RECORDS[2].to_json(), ""]))

    read, table = list(read_records(tmp_path)), RolloutTable.read(tmp_path)

    assert read == [RECORD, RECORDS[2]]
    assert "1 line is no record and was left out (line 2: " in caplog.text
    assert (table.damage.count, table.damage.lines[0][0]) == (1, 2)
    assert list(table.keys) == [RECORD.key, RECORDS[2].key]
    assert {len(column) for column in vars(table).values() if isinstance(column, array)} == {2}


def test_line_when_it_is_no_text_then_it_is_named_and_the_rest_is_used(tmp_path):
    (tmp_path / RECORDS_FILE).write_bytes(b"\xff\xfe\n" + RECORD.to_json().encode() + b"\n")

    assert list(read_records(tmp_path)) == [RECORD]
    assert len(RolloutTable.read(tmp_path)) == 1


def test_file_when_it_holds_no_record_at_all_then_it_is_refused_with_the_first_line(tmp_path):
    (tmp_path / RECORDS_FILE).write_text("# notes\n# more\n")

    for read in (lambda: list(read_records(tmp_path)), lambda: RolloutTable.read(tmp_path)):
        with pytest.raises(DatasetError, match="holds no records") as raised:
            read()
        assert raised.value.line == 1


def test_record_when_written_by_a_newer_version_then_the_fields_that_are_not_known_are_skipped(tmp_path):
    (tmp_path / RECORDS_FILE).write_text(changed(kind="model", cost={"usd": 1}) + "\n")

    assert list(read_records(tmp_path)) == [RECORD]
    assert RolloutTable.read(tmp_path).damage.count == 0


def test_table_when_it_is_read_then_its_rows_are_those_of_the_records(tmp_path):
    again = dataclasses.replace(
        RECORD, trajectory_id="t4", reward=None, attempts=2, metrics={"words": 5, "flag": True, "x": "y"}
    )
    write(tmp_path, [*RECORDS, again])

    table = RolloutTable.read(tmp_path)

    assert list(table.keys) == [(0, 1), (0, 2), (0, 3)]
    assert [math.isnan(reward) for reward in table.reward] == [True, True, False]
    assert (list(table.attempts), table.superseded) == ([2, 1, 3], 1)
    assert {name: (list(rows), list(values)) for name, (rows, values) in table.metrics.items()} == {"words": ([0], [5])}
    assert table.common_errors(3) == [("RewardError: ü\n", 1)]
    assert vars(RolloutTable.of([*RECORDS, again])).keys() == vars(table).keys()
    assert [*RolloutTable.of([*RECORDS, again]).reward[2:]] == [0.5]


def test_table_when_read_then_the_first_traceback_of_each_kind_of_error_can_be_listed(tmp_path):
    """Also those of attempts that a later record replaced, whose rows are dropped."""

    def failed(sample, kind, error, traceback=None):
        fields = {"reward": 0.0, "status": RolloutStatus.FAILED, "failure": kind, "error": error}
        return dataclasses.replace(
            RECORD, trajectory_id=f"f{sample}", sample_index=sample, traceback=traceback, **fields
        )

    agent, tool = FailureKind.AGENT, FailureKind.TOOL
    failures = [
        failed(1, agent, "KeyError: no f1", "Traceback one"),
        failed(2, agent, "KeyError: other", "Traceback two"),
        failed(3, tool, "KeyError: third", "Traceback three"),
        failed(4, None, "an old one", "Traceback four"),
    ]
    write(tmp_path, [*failures, RECORD])

    table = RolloutTable.read(tmp_path)

    assert [tuple(first) for first in table.first_tracebacks()] == [
        ("agent", "KeyError: no <id>", "Traceback one"),
        ("tool", "KeyError: third", "Traceback three"),
        (None, "an old one", "Traceback four"),
    ]
    assert table.first_tracebacks() == RolloutTable.of([*failures, RECORD]).first_tracebacks()
    assert table.failure_counts() == {"agent": 1, "tool": 1, "unknown": 1}
    assert RolloutTable.of(RECORDS[::2]).first_tracebacks() == []


@pytest.mark.parametrize("failure", [3, ["agent"], {"kind": "agent"}])
def test_record_when_its_failure_is_no_text_then_the_line_is_named_and_left_out(tmp_path, failure):
    write(tmp_path, [RECORD])
    broken = {**json.loads(RECORDS[1].to_json()), "failure": failure}
    with (tmp_path / RECORDS_FILE).open("a") as file:
        file.write(json.dumps(broken) + "\n")

    table = RolloutTable.read(tmp_path)

    assert (len(table), [line for line, _ in table.damage.lines]) == (1, [2])


def test_traceback_when_it_is_long_then_both_ends_are_kept():
    def fall(depth):
        if depth:
            return fall_on(depth - 1)
        raise LookupError("at the bottom \ud800 " + "x" * 5_000)

    def fall_on(depth):
        return fall(depth)

    try:
        fall(400)
    except LookupError as error:
        caught = error

    text = describe_traceback(caught)
    assert len(text) == 20_000
    assert text.startswith("Traceback (most recent call last)")
    assert "characters left out" in text
    assert "at the bottom \\ud800" in text
    assert text.encode()


def test_traceback_when_there_is_none_then_none():
    class Silent(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    try:
        raise Silent
    except Silent as error:
        caught = error

    assert describe_traceback(LookupError("never raised")) is None
    assert "Silent" in describe_traceback(caught)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("KeyError: 'x'", "KeyError"),
        ("CancelledError: ", "CancelledError"),
        ("the worker: gone", None),
        ("late", None),
        ("", None),
        (None, None),
    ],
)
def test_error_type_when_a_text_was_made_of_an_error_then_its_class(text, name):
    assert error_type(text) == name


def test_table_when_it_is_limited_then_rows_beyond_are_gone():
    table = RolloutTable.of(
        [dataclasses.replace(RECORDS[2], metrics={"n": 1}), dataclasses.replace(RECORD, metrics={"n": 2})]
    )

    table.limit(1, 3)

    assert list(table.keys) == [RECORD.key]
    assert [list(column) for column in table.metrics["n"]] == [[0], [2.0]]


def test_file_when_cut_at_any_byte_then_whole_records_remain_and_appending_goes_on(tmp_path):
    write(tmp_path, RECORDS)
    path = tmp_path / RECORDS_FILE
    content = path.read_bytes()
    ends = [index for index, byte in enumerate(content) if byte == ord("\n")]

    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        whole = sum(end <= length for end in ends)  # a line whose end alone is missing is whole

        assert list(read_records(tmp_path)) == RECORDS[:whole]
        write(tmp_path, RECORDS[whole:])
        assert path.read_bytes() == content
