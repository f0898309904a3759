import pytest
from extras import needs

from aws_rft_sdk.datasets import read_prompts, write_rows
from aws_rft_sdk.errors import DatasetError

ROWS = [{"id": "1", "prompt": "one"}, {"id": "2", "prompt": '{"question": "two,\n\\"too\\""}'}]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", pytest.param(".parquet", marks=needs("parquet"))])
@pytest.mark.parametrize(
    ("rows", "prompts"),
    [
        pytest.param(ROWS, [row["prompt"] for row in ROWS], id="column-prompt"),
        pytest.param([{"q": "one", "prompts": "no"}, {"q": "two", "prompts": "no"}], ["one", "two"], id="first-column"),
    ],
)
def test_prompts_are_read_verbatim_in_file_order(tmp_path, suffix, rows, prompts):
    write_rows(tmp_path / f"data{suffix}", rows)

    assert list(read_prompts(tmp_path / f"data{suffix}")) == prompts


@pytest.mark.parametrize(
    ("name", "text", "line", "says"),
    [
        pytest.param("d.jsonl", '{"prompt": "a"}\n{oops\n', 2, "not JSON", id="jsonl-broken"),
        pytest.param("d.jsonl", '{"prompt": "a"}\n\n["b"]\n', 3, "an object, not list", id="jsonl-array"),
        pytest.param("d.jsonl", '{"prompt": {"q": 1}}\n', 1, "holds dict", id="object-cell"),
        pytest.param("d.jsonl", '{"prompt": null}\n', 1, "holds NoneType", id="null-cell"),
        pytest.param("d.jsonl", '{"prompt": 4}\n', 1, "holds int", id="number-cell"),
        pytest.param("d.jsonl", '{"prompt": " "}\n', 1, "is empty", id="empty-cell"),
        pytest.param("d.jsonl", '{"prompt": "a"}\n{"q": "b"}\n', 2, "no column 'prompt'", id="missing-later"),
        pytest.param("d.jsonl", "{}\n", 1, "no columns", id="no-columns"),
        pytest.param("d.jsonl", "", None, "no rows", id="empty-file"),
        pytest.param("d.jsonl", '{\n"prompt": "a"\n}\n', 1, r"jq -c \. .*d.jsonl > rows.jsonl", id="jsonl-pretty"),
        pytest.param("d.jsonl", '[\n{"prompt": "a"}\n]\n', 1, "one array must end in .json", id="jsonl-pretty-array"),
        pytest.param("d.jsonl", '[{"prompt": "a"}]\n', 1, "one array must end in .json", id="jsonl-one-array"),
        pytest.param("d.json", '{"prompt": "a"}\n{"prompt": "b"}\n', None, "must end in .jsonl", id="json-lines"),
        pytest.param("d.json", "\n", None, "is empty", id="json-empty-file"),
        pytest.param("d.json", '[{"prompt": "a"},\n oops]', 2, "not JSON", id="json-broken"),
        pytest.param("d.json", '{"prompt": "a"}', None, "array of objects", id="json-object"),
        *(
            pytest.param(name, f'[{{"prompt": {text}}}]', 1, "not JSON", id=f"{name}-{kind}")
            for name in ("d.json", "d.jsonl")
            for kind, text in (("nested", "[" * 100_000), ("digits", "9" * 5000))
        ),
        pytest.param("d.json", "[]", None, "no rows", id="json-empty"),
        pytest.param("d.csv", "prompt\n", None, "no rows", id="csv-header-only"),
        pytest.param("d.csv", 'prompt\n"a" b\n', 2, "not CSV", id="csv-broken"),
        pytest.param(
            "d.parquet",
            "nope",
            None,
            "parquet file is damaged, or is another",
            id="parquet-broken",
            marks=needs("parquet"),
        ),
        pytest.param("d.txt", "a", None, "unknown format '.txt'", id="unknown-format"),
    ],
)
def test_malformed_file_is_refused_naming_the_line(tmp_path, name, text, line, says):
    (tmp_path / name).write_text(text)

    with pytest.raises(DatasetError, match=says) as raised:
        list(read_prompts(tmp_path / name))

    assert raised.value.line == line
    assert name in str(raised.value)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="No such file"):
        list(read_prompts(tmp_path / "nowhere.jsonl"))


def test_text_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "d.jsonl").write_bytes(b'{"prompt": "\xff"}\n')

    with pytest.raises(DatasetError, match="not UTF-8"):
        list(read_prompts(tmp_path / "d.jsonl"))


def test_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    (tmp_path / "d.csv").write_bytes(b"\xef\xbb\xbfprompt,x\na,b\n")

    assert list(read_prompts(tmp_path / "d.csv")) == ["a"]


def test_jsonl_is_streamed_when_only_the_head_is_wanted(tmp_path):
    (tmp_path / "d.jsonl").write_text('{"prompt": "a"}\n{broken\n')

    assert next(read_prompts(tmp_path / "d.jsonl")) == "a"
