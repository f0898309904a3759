import dataclasses
import json

import pytest

from aws_rft_sdk.errors import DatasetError
from aws_rft_sdk.rollout import RolloutRecord, RolloutStatus, read_records
from aws_rft_sdk.rollout._appending import AppendedFile
from aws_rft_sdk.runs.records import RECORDS_FILE, latest_records

RECORD = RolloutRecord(
    id="t1", prompt_index=0, sample_index=1, reward=0.5, turns=2, seconds=1.5, status=RolloutStatus.COMPLETED
)
RECORDS = [
    RECORD,
    dataclasses.replace(
        RECORD, id="t2", sample_index=2, reward=None, status=RolloutStatus.UNREPORTED, error="RewardError: ü\n"
    ),
    dataclasses.replace(
        RECORD,
        id="t3",
        sample_index=3,
        rewards=(0.0, 1.0),
        metrics={"steps": [1, {"x": None}]},
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
    fields = json.loads(RECORD.to_json())
    assert fields.keys() == {field.name for field in dataclasses.fields(RolloutRecord)}
    assert fields["status"] == "completed"


def test_records_when_a_rollout_was_repeated_then_its_last_record_counts(tmp_path):
    again = dataclasses.replace(RECORD, id="t4", attempts=2)
    write(tmp_path, [*RECORDS, again])

    assert list(read_records(tmp_path)) == [*RECORDS[1:], again]
    assert list(read_records(tmp_path, superseded=True)) == [*RECORDS, again]
    assert latest_records([]) == []


ODD_INDEX = dataclasses.replace(RECORD, prompt_index=[1]).to_json()


@pytest.mark.parametrize("line", ["", "{", "[]", "{}", '{"status": "odd"}', ODD_INDEX])
def test_line_that_is_no_record_is_refused_with_its_number(tmp_path, line):
    (tmp_path / RECORDS_FILE).write_text(RECORD.to_json() + "\n" + line + "\n")

    with pytest.raises(DatasetError, match="line 2") as raised:
        list(read_records(tmp_path))

    assert raised.value.line == 2


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
