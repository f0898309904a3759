import csv
import json

import pytest
from extras import needs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aws_rft_sdk.datasets import files, read_rows, write_rows
from aws_rft_sdk.datasets._csv import read_csv
from aws_rft_sdk.errors import DatasetError

SAME_FOLDER = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None, derandomize=True
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALAR = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
INT64 = st.integers(-(2**63), 2**63 - 1)
JSON = st.recursive(
    SCALAR | st.text(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


def back(path):
    return [dict(row) for _, row in read_rows(path)]


@SAME_FOLDER
@given(rows=st.lists(st.dictionaries(st.text(), JSON, max_size=4), min_size=1, max_size=5))
@pytest.mark.parametrize("name", ["d.jsonl", "d.json", "d.jsonl.gz", "d.json.gz"])
def test_json_when_written_and_read_then_rows_are_the_same(tmp_path, name, rows):
    assert write_rows(tmp_path / name, rows) == len(rows)
    assert back(tmp_path / name) == rows


@SAME_FOLDER
@given(rows=st.lists(st.fixed_dictionaries({"prompt": TEXT, 'a,"b': TEXT}), min_size=1, max_size=5))
def test_csv_when_written_and_read_then_text_is_the_same(tmp_path, rows):
    rows = [{name: value.replace("\0", "") for name, value in row.items()} for row in rows]
    write_rows(tmp_path / "d.csv", rows)

    assert back(tmp_path / "d.csv") == rows


@needs("parquet")
@SAME_FOLDER
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "prompt": TEXT,
                "n": st.integers(-(2**63), 2**63 - 1) | st.none(),
                "ok": st.booleans(),
                "x": st.floats(allow_nan=False),
            }
        ),
        min_size=1,
        max_size=5,
    )
)
def test_parquet_when_written_and_read_then_scalars_are_the_same(tmp_path, rows):
    write_rows(tmp_path / "d.parquet", rows)

    assert back(tmp_path / "d.parquet") == rows


@pytest.mark.parametrize("name", ["d.csv", pytest.param("d.parquet", marks=needs("parquet"))])
def test_table_when_given_structure_then_it_stands_there_as_json_text(tmp_path, name):
    write_rows(
        tmp_path / name, [{"prompt": "a", "messages": [{"role": "ü"}]}, {"prompt": "b"}, {"late": "c", "no": None}]
    )

    first, second, third = back(tmp_path / name)

    assert json.loads(first["messages"]) == [{"role": "ü"}]
    assert not second["messages"]
    assert (third["prompt"] or "", third["late"], third["no"] or "") == ("", "c", "")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param('[{"a": 1}\n{"a": 2}]', 2, id="no-comma"),
        pytest.param('[{"a": 1},\n]', 2, id="comma-at-the-end"),
        pytest.param('[{"a": 1}]\n[]', 2, id="second-array"),
        pytest.param('[{"a": 1},\n{"a": "', 2, id="cut-off"),
        pytest.param('[{"a": 1}', 1, id="not-closed"),
        pytest.param('[\n\n{"a": tru}]', 3, id="no-literal"),
        pytest.param('{"a": 1}', None, id="no-array"),
        pytest.param("", None, id="empty"),
    ],
)
def test_json_array_when_broken_then_the_line_is_named(tmp_path, text, line):
    (tmp_path / "d.json").write_text(text)

    with pytest.raises(DatasetError) as raised:
        back(tmp_path / "d.json")

    assert raised.value.line == line


def test_json_array_when_it_is_too_large_then_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_LARGEST_ARRAY", 1 << 20)
    write_rows(tmp_path / "d.json", [{"a": "x" * (1 << 20)}])

    with pytest.raises(DatasetError, match=r"jq -c '\.\[\]' .*d.json > rows.jsonl"):
        back(tmp_path / "d.json")


@pytest.mark.parametrize(
    ("name", "rows", "says"),
    [
        pytest.param("d.jsonl", [{"a": float("nan")}], "row 1 is not JSON", id="nan"),
        pytest.param("d.json", [{}, {"a": object()}], "row 2 is not JSON", id="object"),
        pytest.param("d.csv", [{"a": "\ud800"}], "row 1 is no UTF-8", id="surrogate"),
        pytest.param("d.csv", [{}, {"a": object()}], "row 2 is not JSON", id="object-in-a-cell"),
        pytest.param(
            "d.parquet", [{"a": 1}, {"a": "b"}], "one type of values", id="mixed-types", marks=needs("parquet")
        ),
        pytest.param("d.parquet", [], "no rows", id="no-rows-parquet", marks=needs("parquet")),
        *(
            pytest.param(name, [], "no rows", id=f"no-rows-{name}")
            for name in ("d.jsonl", "d.json", "d.csv", "d.csv.gz")
        ),
        pytest.param("d.arrow", [{}], "only read; write .parquet", id="arrow"),
        pytest.param("d.txt", [{}], "unknown format", id="format"),
        pytest.param("none/d.jsonl", [{}], "No such file", id="folder"),
    ],
)
def test_file_when_it_cannot_be_written_then_nothing_is_left_but_what_was_there(tmp_path, name, rows, says):
    path = tmp_path / name
    if path.parent.exists():
        path.write_text("before")

    with pytest.raises(DatasetError, match=says):
        write_rows(path, rows)

    assert [file.read_text() for file in tmp_path.iterdir()] == (["before"] if path.parent.exists() else [])


def test_csv_when_a_cell_is_very_long_then_it_is_read(tmp_path):
    write_rows(tmp_path / "d.csv", [{"prompt": "x" * 300_000}])

    assert csv.field_size_limit() >= 300_000
    assert back(tmp_path / "d.csv") == [{"prompt": "x" * 300_000}]


@pytest.mark.parametrize("name", ["d.jsonl", "d.json", "d.csv.gz", pytest.param("d.parquet", marks=needs("parquet"))])
def test_progress_when_a_file_is_read_then_it_grows_up_to_its_size(tmp_path, name):
    told = []
    write_rows(tmp_path / name, ({"prompt": f"row {n}"} for n in range(5000)))

    assert sum(1 for _ in read_rows(tmp_path / name, progress=told.append)) == 5000

    assert told == sorted(told)
    assert 0 < told[-1] <= (tmp_path / name).stat().st_size


@pytest.mark.parametrize("name", ["d.jsonl", "d.csv"])
def test_memory_when_a_large_file_is_read_then_it_stays_small(tmp_path, name):
    import tracemalloc

    write_rows(tmp_path / name, ({"prompt": f"{n}" + "x" * 1000} for n in range(20_000)))
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_rows(tmp_path / name)) == 20_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 8_000_000 < (tmp_path / name).stat().st_size


@needs("parquet")
def test_memory_when_a_parquet_file_is_one_row_group_then_it_stays_small(tmp_path):
    import pyarrow.parquet

    texts = [f"{n}" + "x" * 1000 for n in range(20_000)]
    pyarrow.parquet.write_table(
        pyarrow.table({"prompt": texts}), tmp_path / "d.parquet", use_dictionary=False, compression="none"
    )
    before = pyarrow.total_allocated_bytes()

    peak = max(pyarrow.total_allocated_bytes() for _ in read_rows(tmp_path / "d.parquet"))

    assert peak - before < 8_000_000 < (tmp_path / "d.parquet").stat().st_size


@needs("parquet")
def test_parquet_when_two_columns_have_one_name_then_none_is_lost(tmp_path):
    import pyarrow.parquet

    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["prompt", "prompt"])
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet")

    with pytest.raises(DatasetError, match="2 columns are called 'prompt'"):
        back(tmp_path / "d.parquet")


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        pytest.param("a,b\n1,2,3\n", 2, "3 cells, and the header has 2", id="too-many-cells"),
        pytest.param("a,b\n1,2\n3\n", 3, "1 cell, and the header has 2", id="too-few-cells"),
        pytest.param('a,b\n"1\n2",3\n4\n', 4, "1 cell, and", id="line-where-the-row-begins"),
        pytest.param("a,a\n1,2\n", 1, "2 columns are called 'a'", id="name-twice"),
        pytest.param('a,b\n1,2\n"3,4\n5,6\n', 3, "not CSV .*quotes of the row", id="quote-not-closed"),
        pytest.param(b"a,b\n1,2\n\xe9,3\n", 3, "byte 1 of the line is not UTF-8", id="latin-1"),
        pytest.param("\ufeffa,b\n".encode("utf-16-le"), 1, "is UTF-16", id="utf-16"),
        pytest.param(
            "a;b|c\n1;2|3\n", 1, r"semicolons \(';'\) or bars \('\|'\); save them with commas", id="delimiters"
        ),
        pytest.param("a;b\n1;2\n3\n", 3, "1 cell, and the header has 2", id="delimiter-cells"),
    ],
)
def test_csv_when_a_row_is_odd_then_nothing_is_made_up(tmp_path, text, line, says):
    (tmp_path / "d.csv").write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(DatasetError, match=says) as raised:
        back(tmp_path / "d.csv")

    assert raised.value.line == line


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        pytest.param("\ufeffa,b\n1,2\n", [(2, {"a": "1", "b": "2"})], id="byte-order-mark"),
        pytest.param("\n\na\n\n1\n\n", [(5, {"a": "1"})], id="blank-lines"),
        pytest.param(",a\n1,2\n", [(2, {"": "1", "a": "2"})], id="column-without-name"),
        pytest.param("a\r\n1\r\n", [(2, {"a": "1"})], id="lines-of-windows"),
        pytest.param("a\r1\r", [(2, {"a": "1"})], id="lines-of-old"),
        pytest.param(
            'a,b\n"1\r\n2\n",3\n4,5\n', [(2, {"a": "1\r\n2\n", "b": "3"}), (5, {"a": "4", "b": "5"})], id="cells"
        ),
        pytest.param("a", [], id="header-alone"),
        pytest.param("", [], id="nothing"),
        pytest.param("\n\r\n", [], id="blank-lines-alone"),
        pytest.param("\ufeffa;b\r\n1,5;2\r\n", [(2, {"a": "1,5", "b": "2"})], id="semicolons"),
        pytest.param('\n"a;x"\t"b"\n"1\n2"\t3\n', [(3, {"a;x": "1\n2", "b": "3"})], id="tabs-and-quotes"),
        pytest.param("a|b\n1|2\n", [(2, {"a": "1", "b": "2"})], id="bars"),
        pytest.param("sep=;\na;b\n1;2\n", [(3, {"a": "1", "b": "2"})], id="line-for-excel"),
        pytest.param("a;x,b\n1,2\n", [(2, {"a;x": "1", "b": "2"})], id="commas-win"),
        pytest.param('"a,b"\n"1;2"\n', [(2, {"a,b": "1;2"})], id="one-column"),
    ],
)
def test_csv_when_read_then_rows_are_where_they_begin(tmp_path, text, rows):
    (tmp_path / "d.csv").write_bytes(text.encode())

    assert [(line, dict(row)) for line, row in read_rows(tmp_path / "d.csv")] == rows


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        pytest.param("", [], id="nothing"),
        pytest.param("\n\r\n", [1, 2], id="blank-lines-alone"),
        pytest.param("\na\n\n1\n", [1, 3], id="blank-lines"),
    ],
)
def test_csv_when_read_then_blank_lines_are_noted_and_no_others(tmp_path, text, lines):
    (tmp_path / "d.csv").write_bytes(text.encode())
    notes = []

    list(read_csv(tmp_path / "d.csv", lambda *note: notes.append(note)))

    assert notes == [("row-blank", line, "the line is blank") for line in lines]
