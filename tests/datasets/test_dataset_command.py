import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from damage import make_rows
from extras import needs

from aws_rft_sdk import datasets
from aws_rft_sdk.cli import main


@pytest.fixture
def good(tmp_path):
    datasets.write_rows(tmp_path / "good.jsonl", make_rows(100))
    return tmp_path / "good.jsonl"


@pytest.fixture
def bad(tmp_path):
    rows = make_rows(100)
    for row in rows[10:20]:
        row["messages"][0]["role"] = "human"
    datasets.write_rows(tmp_path / "bad.jsonl", rows)
    return tmp_path / "bad.jsonl"


def run(*arguments):
    return CliRunner().invoke(main, ["dataset", *map(str, arguments)], catch_exceptions=False)


def test_check_when_the_file_is_good_then_exit_status_is_zero(good):
    result = run("check", good, "--for", "bedrock")

    assert result.exit_code == 0
    assert "100 rows for bedrock: 0 errors, 0 warnings" in result.stdout


def test_check_when_there_are_errors_then_they_are_grouped_and_exit_status_is_one(bad):
    result = run("check", bad, "--for", "bedrock", "--show", "2")

    assert result.exit_code == 1
    assert "error role-unknown, 10 x: use system, user, assistant or tool" in result.stdout
    assert '  line 11, messages[0].role: a role is none of the service\'s: "human"' in result.stdout
    assert "line 13" not in result.stdout
    assert "  and 8 more" in result.stdout
    assert "20 errors" in result.stdout


def test_check_when_json_is_wanted_then_everything_is_in_it(bad):
    result = run("check", bad, "--for", "bedrock", "--json")

    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert report["counts"] == {"role-unknown": 10, "user-missing": 10}
    assert report["problems"][0] == {
        "rule": "role-unknown",
        "severity": "error",
        "line": 11,
        "field": "messages[0].role",
        "problem": 'a role is none of the service\'s: "human"',
        "fix": "use system, user, assistant or tool",
    }


def test_check_when_there_are_warnings_only_then_exit_status_is_zero(tmp_path):
    (tmp_path / "d.csv").write_text("q\n" + "".join(f"What is {n}?\n" for n in range(40)))

    result = run("check", tmp_path / "d.csv", "--for", "mtrl", "--batch-size", "32")

    assert result.exit_code == 0
    assert "0 errors, 2 warnings" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["check", "good.jsonl"], id="no-target"),
        pytest.param(["check", "good.jsonl", "--for", "sft"], id="unknown-target"),
        pytest.param(["check", "good.jsonl", "--for", "mtrl", "--ignore", "x"], id="unknown-rule"),
        pytest.param(["check", "gone.jsonl", "--for", "mtrl"], id="no-file"),
        pytest.param(["check", "d.txt", "--for", "mtrl"], id="unknown-format"),
        pytest.param(["convert", "good.jsonl", "out.txt"], id="unknown-format-out"),
        pytest.param(["convert", "good.jsonl", "out.jsonl", "--from", "qa"], id="from-without-to"),
        pytest.param(["convert", "good.jsonl", "out.jsonl", "--from", "qa", "--to", "mtrl"], id="other-shape"),
        pytest.param(["prepare", "gsm8k", "good.jsonl", "out", "--shots", "9"], id="too-many-shots"),
        pytest.param(["split", "good.jsonl", "a.jsonl", "b.jsonl", "--share", "2"], id="share"),
    ],
)
def test_misuse_has_exit_status_two_and_writes_nothing(monkeypatch, tmp_path, good, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.txt").write_text("a")

    assert run(*arguments).exit_code == 2
    assert {path.name for path in tmp_path.iterdir()} == {"good.jsonl", "d.txt"}


@pytest.mark.parametrize("row", ["a,1,2", "a"], ids=["cell-too-many", "cell-too-few"])
def test_csv_when_a_row_has_other_cells_then_check_goes_on_and_convert_writes_nothing(tmp_path, row):
    (tmp_path / "d.csv").write_text(f"prompt,level\n{row}\n ,1\n")

    checked = run("check", tmp_path / "d.csv", "--for", "mtrl", "--json")
    converted = run("convert", tmp_path / "d.csv", tmp_path / "out.jsonl")

    assert {"row-cells", "prompt-empty"} <= json.loads(checked.stdout)["counts"].keys()
    assert (checked.exit_code, converted.exit_code) == (1, 2)
    assert "d.csv, line 2: " in converted.output
    assert not (tmp_path / "out.jsonl").exists()


@needs("parquet")
def test_files_when_converted_and_divided_then_rows_are_counted(monkeypatch, tmp_path, good):
    monkeypatch.chdir(tmp_path)

    assert run("convert", good, "m.parquet", "--to", "mtrl").stdout == "100 rows in m.parquet\n"
    assert run("split", "m.parquet", "a.jsonl", "b.jsonl").stdout == "90 rows in a.jsonl\n10 rows in b.jsonl\n"
    assert run("sample", "a.jsonl", "s.csv", "--rows", 7).stdout == "7 rows in s.csv\n"
    assert run("sample", "s.csv", "u.csv", "--rows", 8).stdout == "7 rows in u.csv, which is all of s.csv\n"
    assert run("dedupe", "s.csv", "t.json").stdout == "7 rows in t.json, 0 left out\n"
    assert run("check", "t.json", "--for", "mtrl", "--batch-size", 6).exit_code == 0
    figures = json.loads(run("stats", "t.json", "--json").stdout)
    assert (figures["rows"], figures["without_answer"]) == (7, 0)
    assert "most frequent answer" in run("stats", "t.json").stdout


PAGE = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text()
COMMANDS = sorted(set(re.findall(r"(?:^    |`)aws-rft dataset ([^`\n]*\.[^`\n]*)", PAGE, re.MULTILINE)))


@needs("parquet")
@pytest.mark.parametrize("command", COMMANDS)
def test_command_of_the_docs_does_what_it_says(monkeypatch, tmp_path, command):
    monkeypatch.chdir(tmp_path)
    asks = [[{"role": "user", "content": f"What is {n} + 1?"}] for n in range(400)]
    rows = [{"messages": ask, "reference_answer": "1"} for ask in asks]
    qa = [{"question": ask[0]["content"], "answer": "#### 1"} for ask in asks]
    pair = {"instruction": "Name a color.", "response1": "Red", "response2": "Dog", "annotator1": 1}
    report = {"pre_text": [], "post_text": [], "table": [], "qa": {"question": "Is it?", "exe_ans": "yes"}}
    Path("my_dataset").mkdir()
    Path("my.csv").write_text("prompt;answer\nWhat is 1 + 1?;2\n")
    for name, content in {
        "train.jsonl": rows,
        "rows.jsonl": qa,
        "gsm8k.jsonl": qa,
        "testset.json": [pair] * 9,
        "finqa.json": [report] * 9,
        "prompts.parquet": [{"prompt": ask[0]["content"]} for ask in asks],
        "train.parquet": [{"prompt": ask[0]["content"], "answer": "1"} for ask in asks],
        "my_dataset/train-00000-of-00001.parquet": qa,
        "my_dataset/test-00000-of-00001.parquet": qa,
    }.items():
        datasets.write_rows(name, content)

    result = run(*shlex.split(command, comments=True))

    assert result.exit_code == 0, result.output
    for written in re.findall(r"\d+ rows? in (\S+)", result.stdout):
        assert list(datasets.read_rows(written.rstrip(",")))
