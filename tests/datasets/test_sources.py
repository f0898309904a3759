"""Rows as others write them: gzip, folders of Hugging Face's datasets, verl, TRL, ShareGPT, FinQA, PandaLM."""

import gzip
import json

import pytest
from click.testing import CliRunner
from extras import needs

from aws_rft_sdk import datasets
from aws_rft_sdk.cli import main
from aws_rft_sdk.errors import ConfigurationError, DatasetError
from aws_rft_sdk.rewards import finqa

ASK = {"role": "user", "content": "What is 2 + 2?"}
SYSTEM = {"role": "system", "content": "Be short."}


def run(*arguments):
    return CliRunner().invoke(main, ["dataset", *map(str, arguments)], catch_exceptions=False)


def write(path, rows):
    datasets.write_rows(path, rows)
    return path


def back(path, **options):
    return [dict(row) for _, row in datasets.read_rows(path, **options)]


def converted(tmp_path, row, to="bedrock", shape=None):
    datasets.convert(write(tmp_path / "in.jsonl", [row]), tmp_path / "out.jsonl", to=to, shape=shape)
    return back(tmp_path / "out.jsonl")[0]


# --- gzip ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["d.jsonl.gz", "d.json.gz", "d.csv.gz", "D.JSONL.GZ"])
def test_gzip_when_read_and_written_then_rows_are_the_same_and_files_are_equal(tmp_path, name):
    rows = [{"prompt": "ü"}, {"prompt": "b"}]

    assert back(write(tmp_path / name, rows)) == rows
    assert gzip.decompress((tmp_path / name).read_bytes())
    (tmp_path / "again").mkdir()
    assert write(tmp_path / "again" / name, rows).read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(gzip.compress(b'{"prompt": "a"}\n' * 9999)[:-20], "damaged or cut off", id="cut-off"),
        pytest.param(b'{"prompt": "a"}\n', "damaged or cut off", id="not-compressed"),
        pytest.param(gzip.compress(b'{"prompt": "a"}\n{\n'), "line 2: not JSON", id="broken-row"),
        pytest.param(gzip.compress("{}".encode("utf-16")), "is UTF-16", id="utf-16"),
    ],
)
def test_gzip_when_damaged_then_read_and_check_say_so(tmp_path, data, says):
    (tmp_path / "d.jsonl.gz").write_bytes(data)

    with pytest.raises(DatasetError, match=says):
        back(tmp_path / "d.jsonl.gz")
    assert run("check", tmp_path / "d.jsonl.gz", "--for", "bedrock").exit_code in (1, 2)


def test_gzip_when_checked_for_a_service_then_it_is_no_jsonl(tmp_path):
    rows = [{"messages": [{"role": "user", "content": f"{n} + 1?"}], "reference_answer": "1"} for n in range(100)]

    for target in ("bedrock", "mtrl"):
        report = datasets.check(write(tmp_path / "d.jsonl.gz", rows), target, ignore=["row-shape", "rows-batch"])
        assert report.counts.keys() == {"file-format"}


# --- folders ---------------------------------------------------------------------------------------------------------


def save_to_disk(folder, rows, shards=1):
    """Write what Dataset.save_to_disk writes: arrow streams and two descriptions."""
    pyarrow = pytest.importorskip("pyarrow")
    folder.mkdir(parents=True)
    for shard in range(shards):
        table = pyarrow.Table.from_pylist(rows[shard::shards])
        with pyarrow.ipc.new_stream(folder / f"data-{shard:05}-of-{shards:05}.arrow", table.schema) as stream:
            stream.write_table(table)
    (folder / "state.json").write_text('{"_split": null}')
    (folder / "dataset_info.json").write_text("{}")
    return folder


def save_parquet(path, rows):
    parquet = pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(__import__("pyarrow").Table.from_pylist(rows), path)


ROWS = [{"question": f"{n}?", "answer": f"#### {n}"} for n in range(30)]


@needs("parquet")
def test_folder_of_one_split_is_read_in_the_order_of_its_files(tmp_path):
    folder = save_to_disk(tmp_path / "saved", ROWS, shards=3)
    (folder / "cache-1234.arrow").write_text("what map() leaves")
    (folder / ".git").mkdir()
    (folder / ".git" / "x.parquet").write_text("hidden")

    assert back(folder) == [*ROWS[0::3], *ROWS[1::3], *ROWS[2::3]]
    assert [line for line, _ in datasets.read_rows(folder)][:12] == [*range(1, 11), 1, 2]
    told = []
    assert len(list(datasets.read_rows(folder, progress=told.append))) == 30
    assert told == sorted(told)
    assert told[-1] <= sum(file.stat().st_size for file in folder.iterdir())


@needs("parquet")
@pytest.mark.parametrize("kind", ["saved", "shards", "configurations", "converted", "jsonl"])
def test_folder_of_several_splits_asks_which(tmp_path, kind):
    folder = tmp_path / "folder"
    for name, rows in (("train", ROWS), ("test", ROWS[:3])):
        if kind == "saved":
            save_to_disk(folder / name, rows)
        elif kind == "shards":
            for shard in range(2):
                save_parquet(folder / "data" / f"{name}-{shard:05}-of-00002-0123abc.parquet", rows[shard::2])
        elif kind == "configurations":
            save_parquet(folder / "main" / f"{name}-00000-of-00001.parquet", rows)
        elif kind == "converted":
            save_parquet(folder / "default" / name / "0000.parquet", rows)
        else:
            folder.mkdir(exist_ok=True)
            write(folder / f"{name}.jsonl.gz", rows)
    splits = "main/test, main/train" if kind == "configurations" else "test, train"

    refused = run("convert", folder, tmp_path / "out.jsonl")
    wrong = run("convert", folder, tmp_path / "out.jsonl", "--split", "dev")
    right = run("convert", folder, tmp_path / "out.jsonl", "--to", "bedrock", "--split", splits.split(", ")[0])

    assert (refused.exit_code, wrong.exit_code, right.exit_code) == (2, 2, 0)
    assert f"has the splits {splits}; choose one with split=" in refused.output
    assert f"rows.jsonl --split {splits.split(', ')[0]}" in refused.output
    assert f"has no split 'dev', but {splits}" in wrong.output
    assert right.stdout == f"3 rows in {tmp_path / 'out.jsonl'}\n"


def test_folder_that_cannot_be_read_says_why(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    for name in ("train.jsonl", "train.csv"):
        write(tmp_path / "mixed" / name, ROWS)

    for folder, says in (("empty", "holds no jsonl"), ("mixed", "several formats, train.csv, train.jsonl")):
        with pytest.raises(DatasetError, match=says):
            back(tmp_path / folder)
    with pytest.raises(DatasetError, match="is one file and has no split 'train'"):
        back(tmp_path / "mixed" / "train.csv", split="train")
    checked = run("check", tmp_path / "mixed", "--for", "bedrock")
    assert (checked.exit_code, "aws-rft dataset convert" in checked.output) == (2, True)


@needs("parquet")
def test_arrow_file_of_either_format_is_read(tmp_path):
    import pyarrow

    table = pyarrow.Table.from_pylist([{"prompt": f"row {n}", "other": n} for n in range(3000)])
    for name, new in (("stream.arrow", pyarrow.ipc.new_stream), ("file.arrow", pyarrow.ipc.new_file)):
        with new(tmp_path / name, table.schema) as sink:
            sink.write_table(table)
        assert list(datasets.read_prompts(tmp_path / name)) == [f"row {n}" for n in range(3000)]
    (tmp_path / "broken.arrow").write_text("nope")
    with pytest.raises(DatasetError, match="arrow file is damaged, or is another kind"):
        back(tmp_path / "broken.arrow")


# --- verl, TRL, ShareGPT ---------------------------------------------------------------------------------------------

VERL = {
    "data_source": "openai/gsm8k",
    "prompt": [ASK],
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "4"},
    "extra_info": {"index": 0, "answer": "2 + 2 = 4\n#### 4"},
}
TALK = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]


@pytest.mark.parametrize(
    ("row", "messages", "answer", "rest"),
    [
        pytest.param(VERL, [ASK], "4", {"data_source", "ability", "extra_info", "reward_model"}, id="verl"),
        pytest.param({"prompt": [SYSTEM, ASK], "answer": "4", "id": "a"}, [SYSTEM, ASK], "4", {"id"}, id="trl-answer"),
        pytest.param({"prompt": [ASK], "solution": "4", "answer": None}, [ASK], "4", set(), id="trl-solution"),
        pytest.param({"prompt": [ASK], "ground_truth": 4}, [ASK], "4", set(), id="trl-ground-truth"),
        pytest.param(
            {"prompt": [ASK], "completion": [{"role": "assistant", "content": "4"}]},
            [ASK],
            "4",
            set(),
            id="trl-completion",
        ),
        pytest.param({"prompt": "What is 2 + 2?", "completion": "4"}, [ASK], "4", set(), id="trl-text"),
        pytest.param({"prompt": [ASK], "tools": [1]}, [ASK], None, {"tools"}, id="trl-prompt-only"),
        pytest.param(
            {
                "id": "7",
                "conversations": [*TALK, {"from": "human", "value": "What is 2 + 2?"}, TALK[1] | {"value": "4"}],
            },
            [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, ASK],
            "4",
            {"id"},
            id="sharegpt",
        ),
        pytest.param(
            {"system": "Be short.", "conversations": [ASK], "answer": "4"},
            [SYSTEM, ASK],
            "4",
            set(),
            id="sharegpt-system",
        ),
        pytest.param({"prompt": [ASK], "ground_truth": "", "answer": "4"}, [ASK], "4", set(), id="empty-cell"),
        pytest.param(
            {"prompt": "What is 2 + 2?", "reward_model": {"ground_truth": ""}, "answer": "4"},
            [ASK],
            "4",
            set(),
            id="verl-empty",
        ),
        *(
            pytest.param({"prompt": [ASK], "answer": value}, [ASK], text, set(), id=f"answer-{text}")
            for value, text in (
                (0, "0"),
                (False, "false"),
                ({}, {}),
                ([], "[]"),
                ("no refund", "no refund"),
                ("0", "0"),
            )
        ),
    ],
)
def test_rows_of_others_are_converted_without_a_word(tmp_path, row, messages, answer, rest):
    made = converted(tmp_path, row)

    assert (made.pop("messages"), made.pop("reference_answer", None)) == (messages, answer)
    assert made.keys() == rest


@pytest.mark.parametrize("to", ["mtrl", "nova", "nova-multiturn", "qa"])
def test_rows_of_verl_become_rows_of_every_shape(tmp_path, to):
    made = converted(tmp_path, VERL, to)

    if to == "mtrl":
        packed = datasets.unpack(made["prompt"])
        assert (packed.question, packed.ground_truth) == ("What is 2 + 2?", "4")
        assert packed.hidden["extra_info"] == VERL["extra_info"]
    else:
        answer = {"nova": made.get("reference_answer"), "qa": made.get("answer")}
        assert answer.get(to, made.get("metadata", {}).get("answer")) == "4"


@pytest.mark.parametrize("name", ["d.csv", pytest.param("d.parquet", marks=needs("parquet"))])
@pytest.mark.parametrize(
    "row",
    [
        pytest.param(VERL, id="verl"),
        pytest.param({"conversations": [*TALK, {"from": "human", "value": "Bye"}], "answer": "4"}, id="sharegpt"),
        pytest.param({"prompt": [ASK], "completion": [{"role": "assistant", "content": "4"}]}, id="trl"),
        pytest.param({"prompt": '[{"a": 1}]', "answer": "4"}, id="json-text"),
    ],
)
def test_rows_of_others_are_the_same_after_a_table(tmp_path, row, name):
    datasets.convert(write(tmp_path / "in.jsonl", [row]), tmp_path / name)
    datasets.convert(tmp_path / name, tmp_path / "out.jsonl", to="bedrock")

    table = back(tmp_path / "out.jsonl")
    assert table == [converted(tmp_path, row)]


@needs("parquet")
def test_verl_parquet_is_read_without_the_nulls_of_other_rows(tmp_path):
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    save_parquet(tmp_path / "d.parquet", [VERL, {**VERL, "prompt": [ASK, call]}])

    datasets.convert(tmp_path / "d.parquet", tmp_path / "out.jsonl", to="bedrock")

    first, second = back(tmp_path / "out.jsonl")
    assert first == {
        "messages": [ASK],
        "reference_answer": "4",
        **{name: first[name] for name in first if name in VERL},
    }
    assert second["messages"] == [ASK, {"role": "assistant", "tool_calls": [{"id": "1"}]}]
    with pytest.raises(DatasetError, match=r"aws-rft dataset convert .* --to mtrl"):
        list(datasets.read_prompts(tmp_path / "d.parquet"))
    stats = datasets.stats(tmp_path / "d.parquet")
    assert (stats.without_answer, stats.duplicate_rows) == (0, 0)


@pytest.mark.parametrize(
    ("row", "shape", "says"),
    [
        pytest.param(
            {"conversations": [{"from": "observation", "value": "x"}]}, None, "is from 'observation'", id="role"
        ),
        pytest.param({"conversations": [{"from": "human"}]}, None, "no 'content'", id="no-value"),
        pytest.param({"conversations": ["Hi"]}, None, "is from 'Hi'", id="no-turn"),
        pytest.param({"conversations": [{"from": []}]}, None, r"is from \[\]", id="no-name"),
        pytest.param({"prompt": [ASK], "completion": ["a"]}, None, "string indices", id="no-completion"),
        pytest.param({"question": "a"}, "verl", "shape verl: no 'reward_model'", id="not-verl"),
        pytest.param({"prompt": [], "answer": "4"}, None, "no question in it", id="no-messages"),
        pytest.param({"prompt": ["What?"], "answer": "4"}, None, r"prompt\[0\] is no message", id="no-message"),
    ],
)
def test_row_of_others_that_is_broken_is_refused_with_its_line(tmp_path, row, shape, says):
    with pytest.raises(DatasetError, match=f"line 1 .*{says}"):
        converted(tmp_path, row, shape=shape)
    assert not (tmp_path / "out.jsonl").exists()
    assert datasets.dedupe(write(tmp_path / "twice.jsonl", [row, row]), tmp_path / "out.jsonl") == (1, 1)


# --- known datasets --------------------------------------------------------------------------------------------------

REPORT = {
    "id": "ABC/2019/page_1.pdf-1",
    "pre_text": ["sales rose .", "see the table ."],
    "post_text": ["all in millions ."],
    "table": [["", "2019", "2018"], ["sales", "$ 110", "$ 100"]],
}
PAIR = {"instruction": "Name a color.", "input": "", "response1": "Red", "response2": "Dog"}
VOTES = {"annotator1": 1, "annotator2": "1", "annotator3": 0}


@pytest.mark.parametrize(
    ("name", "row", "reference"),
    [
        ("finqa", REPORT | {"qa": {"question": "by how much?", "answer": "10%", "exe_ans": 0.1}}, "0.1"),
        ("finqa", REPORT | {"qa": {"question": "by how much?", "answer": "", "exe_ans": 0}}, "0"),
        ("finqa", REPORT | {"qa": {"question": "by how much?", "exe_ans": 1e-05}}, "0.00001"),
        ("finqa", REPORT | {"qa": {"question": "did it rise?", "exe_ans": "yes"}}, "yes"),
        ("finqa", REPORT | {"question": "by how much?", "final_result": 0.1, "answer": "10%"}, "0.1"),
        ("pandalm", PAIR | VOTES, "1"),
        ("pandalm", PAIR | VOTES | {"annotator2": 2}, "Tie"),
        ("pandalm", PAIR | {"annotator1": 0}, "Tie"),
        ("pandalm", PAIR | {"output_sequence": "1\n\n### Reason: ..."}, "1\n\n### Reason: ..."),
    ],
)
def test_known_rows_become_a_question_and_a_reference(tmp_path, name, row, reference):
    source = write(tmp_path / "in.json", [row, row])

    result = run("prepare", name, source, tmp_path / "out", "--to", "bedrock")

    made = back(tmp_path / "out/train.jsonl")[0]
    assert result.stdout.splitlines() == [f"1 row in {tmp_path}/out/{part}.jsonl" for part in ("train", "validation")]
    assert made["reference_answer"] == reference
    assert [message["role"] for message in made["messages"]] == ["system", "user"]
    text = made["messages"][1]["content"]
    if name == "finqa":
        assert "sales | $ 110 | $ 100\n\nall in millions .\n\nQuestion: " in text
        assert finqa.score(f"So it is.\nANSWER: {reference}", made["reference_answer"]) == 1.0
    else:
        assert "### Instruction:\nName a color.\n\n### Response 1:\nRed\n\n### Response 2:\nDog" in text


@pytest.mark.parametrize("to", ["mtrl", "bedrock", "nova", "nova-multiturn"])
@pytest.mark.parametrize("name", ["gsm8k", "finqa", "pandalm"])
def test_prepared_files_pass_the_check_of_their_target(tmp_path, name, to):
    rows = {
        "gsm8k": ROWS[:1],
        "finqa": [REPORT | {"qa": {"question": "by how much?", "exe_ans": 10.0}}],
        "pandalm": [PAIR | VOTES],
    }[name]
    varied = [
        json.loads(
            json.dumps(rows[0]).replace("0?", f"{n}?").replace("sales rose", f"sales {n} rose").replace("Red", f"R{n}")
        )
        | ({"id": f"r{n}"} if name == "finqa" else {})
        for n in range(130)
    ]
    write(tmp_path / "in.jsonl", varied)

    assert datasets.prepare(name, tmp_path / "in.jsonl", tmp_path / "out", to=to, shots=8 * (name == "gsm8k")) == {
        "train.jsonl": 117,
        "validation.jsonl": 13,
    }

    report = datasets.check(tmp_path / "out/train.jsonl", to, batch_size=8)
    assert report.ok, report.problems[:3]


@pytest.mark.parametrize(
    ("name", "rows", "says"),
    [
        pytest.param("finqa", [REPORT | {"qa": {"question": "a"}}], "line 1: the row has no exe_ans", id="no-answer"),
        pytest.param(
            "finqa", [{"qa": {"question": "a", "exe_ans": 1}}], "line 1: the row has no 'table'", id="no-table"
        ),
        pytest.param("pandalm", [PAIR], "line 1: verdicts in annotator1", id="no-verdict"),
        pytest.param("pandalm", [PAIR | {"annotator1": 3}], r"and they are \[3\]", id="odd-verdict"),
        pytest.param("gsm8k", [{"question": "a", "answer": 5}], "line 1: ", id="no-text"),
        pytest.param("gsm8k", ROWS[:1], "two rows or more are needed", id="one-row"),
    ],
)
def test_known_dataset_that_is_another_is_refused_and_nothing_is_written(tmp_path, name, rows, says):
    with pytest.raises(DatasetError, match=says):
        datasets.prepare(name, write(tmp_path / "in.jsonl", rows), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_prepare_when_misused_then_it_says_so(tmp_path):
    source = write(tmp_path / "train.jsonl", ROWS)

    for arguments, says in (
        ({"name": "mmlu"}, "use one of gsm8k, finqa, pandalm"),
        ({"name": "finqa", "shots": 1}, "for gsm8k only"),
        ({"name": "gsm8k", "shots": 9}, "0 to 8"),
        ({"name": "gsm8k", "to": "sharegpt"}, "use one of mtrl, bedrock"),
        ({"name": "gsm8k", "folder": tmp_path}, "would be replaced"),
        ({"name": "gsm8k", "source": tmp_path, "folder": tmp_path}, "would be replaced"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            datasets.prepare(**{"source": source, "folder": tmp_path / "out"} | arguments)
    assert back(source) == ROWS


# --- nothing in, nothing out -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["d.jsonl", "d.csv", "d.json", "d.jsonl.gz"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["convert", "IN", "out.jsonl"],
        ["convert", "IN", "out.csv", "--to", "mtrl"],
        ["sample", "IN", "out.jsonl", "--rows", "3"],
        ["dedupe", "IN", "out.jsonl"],
        ["split", "IN", "out.jsonl", "rest.jsonl"],
        ["prepare", "gsm8k", "IN", "out"],
    ],
    ids=lambda arguments: "-".join(arguments[:1] + arguments[3:4]) if isinstance(arguments, list) else None,
)
def test_empty_input_is_said_and_nothing_is_written(monkeypatch, tmp_path, name, arguments):
    monkeypatch.chdir(tmp_path)
    empty = {"d.json": b"[]", "d.csv": b"prompt\n", "d.jsonl.gz": gzip.compress(b"")}
    (tmp_path / name).write_bytes(empty.get(name, b""))

    result = run(*[name if argument == "IN" else argument for argument in arguments])

    assert result.exit_code == 2
    assert "row" in result.output or "prompts" in result.output
    assert [path.name for path in tmp_path.iterdir()] == [name]
