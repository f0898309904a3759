"""Rules of the targets that tests of damage do not reach, and what a check does besides."""

import json
import os
import sys
from pathlib import Path

import pytest
from damage import make_rows, tool, with_call
from extras import needs

from aws_rft_sdk import datasets
from aws_rft_sdk.datasets.files import write_rows
from aws_rft_sdk.datasets.rules import RULES, Severity, Target
from aws_rft_sdk.errors import ConfigurationError, DatasetError

LINE = 9


def check(tmp_path, rows, target, *, name="d.jsonl", **options):
    write_rows(tmp_path / name, rows)
    return datasets.check(tmp_path / name, target, **options)


def found(report):
    return {(problem.rule, problem.line, problem.field) for problem in report.problems}


def multiturn(count=120):
    return [
        {"id": f"row-{n}", "metadata": {"prompt": f"Guess word {n}.", "answer": f"crane{n}", "info": {"turns": 6}}}
        for n in range(count)
    ]


def nova(count=120):
    return [{"id": f"row-{n}", **row} for n, row in enumerate(make_rows(count))]


def mtrl(count=1300):
    return [{"prompt": datasets.pack(question=f"What is {n}?", ground_truth=f"w{n}")} for n in range(count)]


def ask(text):
    return [{"role": "user", "content": text}]


def packed(**fields):
    return json.dumps({"question": "What?", "ground_truth": "x", "visible": ["question"], **fields})


MULTITURN = [
    pytest.param(lambda row: row.update(messages=[]), ("key-unknown", LINE, "messages"), id="messages-besides"),
    pytest.param(lambda row: row.pop("id"), ("id-missing", LINE, "id"), id="no-id"),
    pytest.param(lambda row: row.update(id=" "), ("id-type", LINE, "id"), id="blank-id"),
    pytest.param(lambda row: row.update(id=" row-3 "), ("id-duplicate", LINE, "id"), id="id-of-another-row"),
    pytest.param(lambda row: row.pop("metadata"), ("metadata-missing", LINE, "metadata"), id="no-metadata"),
    pytest.param(lambda row: row.update(metadata="{}"), ("metadata-type", LINE, "metadata"), id="metadata-as-text"),
    pytest.param(lambda row: row.update(metadata=None), ("metadata-type", LINE, "metadata"), id="metadata-null"),
]
METADATA = [
    pytest.param({"promt": "Guess."}, ("metadata-key", LINE, "metadata.promt"), id="misspelt-field"),
    pytest.param({"prompt": "\u200b\ufeff"}, ("prompt-empty", LINE, "metadata.prompt"), id="prompt-of-no-width"),
    pytest.param(
        {"info": "[" * 9999}, ("metadata-value", LINE, "metadata.info"), id="info-nested-deeper-than-can-be-read"
    ),
    pytest.param({"level": 1}, ("metadata-key", LINE, "metadata.level"), id="unknown-field"),
    pytest.param({"answer": 5}, ("metadata-value", LINE, "metadata.answer"), id="answer-is-a-number"),
    pytest.param({"task": ["a"]}, ("metadata-value", LINE, "metadata.task"), id="task-is-a-list"),
    pytest.param({"info": "six turns"}, ("metadata-value", LINE, "metadata.info"), id="info-is-plain-text"),
    pytest.param({"info": '{"a": NaN}'}, ("metadata-value", LINE, "metadata.info"), id="info-is-not-finite"),
    pytest.param({"info": [1]}, ("metadata-value", LINE, "metadata.info"), id="info-is-a-list"),
    pytest.param({"prompt": 5}, ("prompt-type", LINE, "metadata.prompt"), id="prompt-is-a-number"),
    pytest.param({"prompt": " "}, ("prompt-empty", LINE, "metadata.prompt"), id="prompt-is-blank"),
    pytest.param({"prompt": "Guess word 3."}, ("prompt-duplicate", LINE, "metadata.prompt"), id="prompt-twice"),
    pytest.param({"prompt": "It is. Answer: crane8"}, ("answer-leak", LINE, "metadata.prompt"), id="answer-told"),
    pytest.param(
        {"prompt": [{"role": "developer", "content": "Guess."}]},
        ("role-unknown", LINE, "metadata.prompt[0].role"),
        id="developer-in-a-prompt",
    ),
    pytest.param({"prompt": []}, ("messages-empty", LINE, "metadata.prompt"), id="no-messages"),
    pytest.param({"task": "t"}, ("optional-field", LINE, "task"), id="task-in-one-row"),
]


class TestMultiturn:
    def test_good_rows_have_no_problems(self, tmp_path):
        assert check(tmp_path, multiturn(), "nova-multiturn").problems == ()

    @pytest.mark.parametrize("prompt", [[{"role": "user", "content": "Go."}], "Go."], ids=["messages", "text"])
    def test_info_may_be_json_text_and_a_prompt_messages(self, tmp_path, prompt):
        rows = multiturn()
        for row in rows:
            row["metadata"]["info"] = '{"turns": 6}'
        rows[LINE - 1]["metadata"]["prompt"] = prompt

        assert check(tmp_path, rows, "nova-multiturn").problems == ()

    @pytest.mark.parametrize(("change", "problem"), MULTITURN)
    def test_bad_row_is_found(self, tmp_path, change, problem):
        rows = multiturn()
        change(rows[LINE - 1])

        assert problem in found(check(tmp_path, rows, "nova-multiturn"))

    @pytest.mark.parametrize(("change", "problem"), METADATA)
    def test_bad_metadata_is_found(self, tmp_path, change, problem):
        rows = multiturn()
        rows[LINE - 1]["metadata"].update(change)

        report = check(tmp_path, rows, "nova-multiturn")

        assert problem in found(report)
        assert set(report.counts.values()) == {1}

    def test_metadata_without_prompt_is_found(self, tmp_path):
        rows = multiturn()
        del rows[LINE - 1]["metadata"]["prompt"]

        assert ("prompt-missing", LINE, "metadata.prompt") in found(check(tmp_path, rows, "nova-multiturn"))


class TestNova:
    def test_good_rows_have_no_problems(self, tmp_path):
        assert check(tmp_path, nova(), "nova").problems == ()

    def test_case_of_roles_does_not_matter(self, tmp_path):
        rows = nova()
        rows[0]["messages"][0]["role"] = "USER"
        rows[LINE - 1]["messages"] = [{**message, "role": message["role"].title()} for message in with_call()]

        assert check(tmp_path, rows, "nova").problems == ()
        fields = {f"messages[{number}].role" for number in range(3)}
        assert fields <= {field for rule, _, field in found(check(tmp_path, rows, "bedrock")) if rule == "role-unknown"}

    def test_name_of_a_message_is_refused_that_bedrock_takes(self, tmp_path):
        rows = nova()
        rows[LINE - 1]["messages"][0]["name"] = "Ada"

        assert found(check(tmp_path, rows, "nova")) == {("message-key", LINE, "messages[0].name")}
        assert check(tmp_path, rows, "bedrock").problems == ()

    def test_reference_is_not_wanted_when_told_so_but_in_all_rows_or_none(self, tmp_path):
        rows = nova()
        without = [{name: value for name, value in row.items() if name != "reference_answer"} for row in rows]

        assert check(tmp_path, without, "nova").counts == {"reference-missing": 120}
        assert check(tmp_path, without, "nova", require_reference=False).ok
        mixed = check(tmp_path, [*rows[:119], without[119]], "nova", require_reference=False)
        assert found(mixed) == {("optional-field", 120, "reference_answer")}

    def test_more_than_20_000_rows_are_too_many(self, tmp_path):
        assert check(tmp_path, make_rows(20_000), "nova").ok
        assert found(check(tmp_path, make_rows(20_001), "nova")) == {("rows-max", None, "")}


MTRL = [
    pytest.param({"prompt": 5}, ("prompt-type", LINE, "prompt"), id="prompt-is-a-number"),
    pytest.param({"prompt": {"question": "?"}}, ("prompt-type", LINE, "prompt"), id="prompt-is-an-object"),
    pytest.param({"prompt": None}, ("prompt-type", LINE, "prompt"), id="prompt-is-null"),
    pytest.param({"prompt": ""}, ("prompt-empty", LINE, "prompt"), id="prompt-is-empty"),
    pytest.param({"question": "?"}, ("prompt-missing", LINE, "prompt"), id="other-column"),
    pytest.param({"prompt": "What?"}, ("prompt-structure", LINE, "prompt"), id="text-among-json"),
    pytest.param({"prompt": '{"question": '}, ("prompt-structure", LINE, "prompt"), id="broken-json"),
    pytest.param({"prompt": '["a"]'}, ("prompt-structure", LINE, "prompt"), id="json-array"),
    pytest.param({"prompt": packed(level=1)}, ("prompt-keys", LINE, "prompt"), id="other-keys"),
    pytest.param({"prompt": packed(question="Say x. Answer: x")}, ("answer-leak", LINE, "prompt"), id="answer-told"),
    pytest.param({"prompt": mtrl(4)[3]["prompt"]}, ("prompt-duplicate", LINE, "prompt"), id="prompt-twice"),
    pytest.param({"prompt": packed(), "answer": "x"}, ("columns-ignored", LINE, "answer"), id="answer-column"),
    pytest.param({"prompt": packed(question="w " * 99_999)}, ("sequence-length", LINE, "prompt"), id="long"),
    pytest.param({}, ("row-empty", LINE, ""), id="no-columns"),
    pytest.param({"prompt": "\u200b\u2060"}, ("prompt-empty", LINE, "prompt"), id="no-width"),
    pytest.param({"prompt": packed(question=" ")}, ("prompt-empty", LINE, "prompt"), id="blank-question"),
    pytest.param({"prompt": packed(question=None)}, ("prompt-empty", LINE, "prompt"), id="question-is-null"),
    pytest.param({"prompt": packed(question=ask("\u200b"))}, ("prompt-empty", LINE, "prompt"), id="blank-message"),
    pytest.param({"prompt": packed(visible="question")}, ("prompt-visible", LINE, "prompt"), id="visible-is-text"),
    pytest.param({"prompt": packed(visible=[])}, ("prompt-visible", LINE, "prompt"), id="nothing-visible"),
    pytest.param({"prompt": packed(visible=["qestion"])}, ("prompt-visible", LINE, "prompt"), id="visible-misspelt"),
    pytest.param(
        {"prompt": packed(visible=["question", "ground_truth"])},
        ("prompt-visible", LINE, "prompt"),
        id="answer-visible",
    ),
    *(
        pytest.param({"prompt": cell}, ("row-constant", LINE, "prompt.weight"), id=f"{name}-in-the-cell")
        for name, cell in {
            "nan": packed(weight=float("nan")),
            "overflow": packed(weight=5).replace(": 5", ": 1e999"),
        }.items()
    ),
    pytest.param(
        {"prompt": packed()[:-1] + ', "question": "Who?"}'},
        ("row-repeated-key", LINE, "prompt.question"),
        id="key-twice-in-the-cell",
    ),
    pytest.param(
        {"prompt": packed(level={"of": "it"}).replace('"of"', '"of": 1, "of"')},
        ("row-repeated-key", LINE, "prompt.level.of"),
        id="key-twice-deep-in-the-cell",
    ),
    pytest.param(
        {"prompt": packed(question='Say {"a": 1}.')[:-1] + ', "question": "Say {\\"b\\": 2}."}'},
        ("row-repeated-key", LINE, "prompt.question"),
        id="key-twice-among-quotes",
    ),
    pytest.param({"prompt": packed(question="a\0")}, ("row-text", LINE, "prompt.question"), id="nul-in-the-cell"),
    pytest.param({"prompt": "{'question': 'What?'}"}, ("prompt-json", LINE, "prompt"), id="dict-of-python"),
    pytest.param({"prompt": " " + packed() + " x"}, ("prompt-json", LINE, "prompt"), id="text-after-the-cell"),
    pytest.param({"prompt": '{"a": ' * 9999}, ("prompt-json", LINE, "prompt"), id="nested-deeply"),
]


class TestMtrl:
    def test_good_rows_have_no_problems(self, tmp_path):
        assert check(tmp_path, mtrl(), "mtrl").problems == ()

    @pytest.mark.parametrize(("row", "problem"), MTRL)
    def test_bad_row_is_found(self, tmp_path, row, problem):
        rows = mtrl()
        rows[LINE - 1] = row

        assert problem in found(check(tmp_path, rows, "mtrl"))

    @pytest.mark.parametrize(
        ("count", "batch", "problems"),
        [
            pytest.param(32, 32, {("rows-batch", None, "")}, id="just-a-batch"),
            pytest.param(33, 32, {("rows-few-batches", None, "")}, id="one-more"),
            pytest.param(320, 32, set(), id="ten-batches"),
            pytest.param(128, None, {("rows-batch", None, "")}, id="default-batch-of-128"),
        ],
    )
    def test_rows_are_compared_with_the_batch(self, tmp_path, count, batch, problems):
        assert found(check(tmp_path, mtrl(count), "mtrl", batch_size=batch)) == problems

    @pytest.mark.parametrize("name", ["d.jsonl", "d.json", "d.csv", pytest.param("d.parquet", marks=needs("parquet"))])
    def test_every_format_is_taken_and_the_first_column_is_the_prompt(self, tmp_path, name):
        rows = [{"q": f"What is {n}?", "level": "easy"} for n in range(1300)]

        report = check(tmp_path, rows, "mtrl", name=name)

        line = 2 if name == "d.csv" else 1
        assert (found(report), report.rows) == ({("prompt-column", line, "q")}, 1300)

    def test_conventional_cell_that_holds_its_answer_in_messages_is_found(self, tmp_path):
        rows = [
            {
                "prompt": json.dumps(
                    {"prompt": [{"role": "user", "content": f"Word {n}?"}], "reward_spec": {"ground_truth": f"w{n}"}}
                )
            }
            for n in range(1300)
        ]
        good = check(tmp_path, rows, "mtrl")
        rows[LINE - 1]["prompt"] = rows[LINE - 1]["prompt"].replace("Word 8?", "Word 8? The answer is w8")

        assert good.problems == ()
        assert found(check(tmp_path, rows, "mtrl")) == {("answer-leak", LINE, "prompt")}

    def test_conventional_cells_need_not_be_looked_at_twice_for_white_space_or_null(self, tmp_path):
        rows = [{"prompt": f" {json.dumps({'question': f'What? {n}', 'visible': None})}\n"} for n in range(1300)]

        assert check(tmp_path, rows, "mtrl").problems == ()

    def test_prompt_column_that_the_first_rows_lack_is_the_column_all_the_same(self, tmp_path):
        rows = mtrl()
        rows[0] = {"question": "What?"}

        assert found(check(tmp_path, rows, "mtrl")) == {
            ("prompt-column", 1, "question"),
            ("prompt-missing", 1, "prompt"),
            ("prompt-structure", 1, "prompt"),
        }

    @pytest.mark.parametrize("name", ["d.jsonl", "d.csv"])
    def test_prompt_column_that_is_misspelt_is_named(self, tmp_path, name):
        rows = [{"id": str(n), "Prompts": f"What is {n}?"} for n in range(1300)]

        (problem,) = check(tmp_path, rows, "mtrl", name=name).problems

        assert (problem.rule, problem.problem) == (
            "prompt-column",
            "the first column, 'id', is taken for the prompts; did you mean 'Prompts' to be \"prompt\"?",
        )


CSV = [
    pytest.param("a,b,c\n", ("row-cells", 3, ""), 1, id="too-many-cells"),
    pytest.param("a\n", ("row-cells", 3, ""), 1, id="too-few-cells"),
    pytest.param('"a\n\nb",1\nc\n', ("row-cells", 6, ""), 1, id="lines-in-a-cell-are-counted"),
    pytest.param('"a\n\nb"\n', ("row-cells", 3, ""), 1, id="a-row-is-where-it-begins"),
    pytest.param("\n", ("row-blank", 3, ""), 1, id="blank-line"),
    pytest.param(b"caf\xe9,1\n", ("row-encoding", 3, ""), 1, id="latin-1"),
    pytest.param("a\0b,1\n", ("row-text", 3, "prompt"), 1, id="nul"),
    pytest.param("\u200b,1\n", ("prompt-empty", 3, "prompt"), 1, id="no-width"),
    pytest.param('"{""q"": 1, ""q"": 2}",1\n', ("row-repeated-key", 3, "prompt.q"), 1, id="key-twice-in-a-cell"),
    pytest.param('a,1\n"b,1\n', ("file-broken", 4, ""), 0, id="quote-not-closed"),
    pytest.param('a,1\n"b,1\nc,1\n"d",1\n', ("file-broken", 4, ""), 0, id="quote-closed-by-another-row"),
    pytest.param('"a" b,1\n', ("file-broken", 3, ""), 0, id="text-behind-a-quote"),
    pytest.param(f"{'x' * 300_000},1\n", ("sequence-length", 3, "prompt"), 1, id="very-long-cell"),
]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="csv of Python 3.10 reads no NUL")
class TestCsv:
    @pytest.mark.parametrize(("text", "problem", "goes_on"), CSV)
    def test_odd_row_is_found_and_the_rest_is_checked(self, tmp_path, text, problem, goes_on):
        text = text if isinstance(text, bytes) else text.encode()
        (tmp_path / "d.csv").write_bytes(b"prompt,level\nq,1\n" + text + b" ,1\n")

        report = datasets.check(tmp_path / "d.csv", "mtrl")

        assert problem in found(report)
        line = 3 + text.count(b"\n")
        assert (("prompt-empty", line, "prompt") in found(report)) is bool(goes_on)

    @pytest.mark.parametrize(
        ("header", "problem"),
        [
            pytest.param("prompt,prompt", ("header-repeated", 1, ""), id="name-twice"),
            pytest.param("prompt,", ("header-empty", 1, ""), id="no-name"),
            pytest.param("prompt;level", ("file-delimiter", 1, ""), id="semicolon"),
            pytest.param("prompt\tlevel", ("file-delimiter", 1, ""), id="tab"),
            pytest.param("\ufeffprompt,level", ("file-bom", 1, ""), id="byte-order-mark"),
            pytest.param(" prompt,level", ("prompt-column", 2, " prompt"), id="blank-before-the-name"),
            pytest.param("\nprompt,level", ("row-blank", 1, ""), id="blank-line-first"),
            pytest.param('"prompt,level', ("file-broken", 1, ""), id="quote-not-closed"),
        ],
    )
    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    def test_odd_header_is_found(self, tmp_path, header, problem, end):
        (tmp_path / "d.csv").write_bytes(f"{header}\nq,1\n".replace("\n", end).encode())

        assert problem in found(datasets.check(tmp_path / "d.csv", "mtrl"))

    def test_other_targets_get_what_can_be_said_of_rows(self, tmp_path):
        write_rows(tmp_path / "d.csv", make_rows(120))
        text = (tmp_path / "d.csv").read_text() + "[],5\n"
        (tmp_path / "d.csv").write_text(text)

        problems = found(datasets.check(tmp_path / "d.csv", "bedrock"))

        line = text.count("\n")
        assert {("file-format", None, ""), ("row-cells", line, ""), ("messages-empty", line, "messages")} <= problems


@pytest.mark.parametrize("name", ["d.jsonl", "d.json", "d.csv"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_file_in_utf_16_is_said_to_be(tmp_path, name, encoding):
    (tmp_path / name).write_bytes("\ufeffprompt\na\n".encode(encoding))

    report = datasets.check(tmp_path / name, "mtrl")

    assert (found(report), report.problems[0].problem) == (
        {("file-broken", 1, "")},
        "the file is UTF-16; save it as UTF-8",
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(b'[{"prompt": "a", "w": NaN}]', ("row-constant", 1, "w"), id="nan"),
        pytest.param(b'[{"prompt": "a", "prompt": "b"}]', ("row-repeated-key", 1, "prompt"), id="key-twice"),
        pytest.param(b'\xef\xbb\xbf[{"prompt": "a"}]', ("file-bom", 1, ""), id="byte-order-mark"),
        pytest.param(b'[{"prompt": "caf\xe9"}]', ("file-broken", None, ""), id="latin-1"),
    ],
)
def test_json_file_is_looked_at_as_closely_as_lines_are(tmp_path, text, problem):
    (tmp_path / "d.json").write_bytes(text)

    assert problem in found(datasets.check(tmp_path / "d.json", "mtrl"))


HINTS = [
    pytest.param({"mesages": []}, "unknown field 'mesages'; did you mean \"messages\"?", id="field"),
    pytest.param({"Tools": []}, "unknown field 'Tools'; did you mean \"tools\"?", id="case"),
    pytest.param(
        {"messages": [{"rol": "user", "content": "a"}]},
        "there is no field 'rol' here; did you mean \"role\"?",
        id="message-field",
    ),
    pytest.param({"messages": [{"role": "asistant", "content": "a"}]}, 'did you mean "assistant"?', id="role"),
    pytest.param(
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "texts": 1}]}]},
        "there is no field 'texts' here; did you mean \"text\"?",
        id="part",
    ),
    pytest.param(
        {"metadata": {"anwser": "a"}}, "no field 'anwser' here; did you mean \"answer\"?", id="metadata-field"
    ),
    pytest.param({"meta-data": {}}, "no field 'meta-data' here; did you mean \"metadata\"?", id="multiturn-field"),
]


@pytest.mark.parametrize(("row", "says"), HINTS)
def test_misspelt_name_is_told_what_was_meant(tmp_path, row, says):
    target = "nova-multiturn" if any(name.startswith("meta") for name in row) else "bedrock"

    assert any(says in problem.problem for problem in check(tmp_path, [row], target).problems)


def test_missing_field_is_not_called_optional_where_it_is_misspelt(tmp_path):
    rows = make_rows(120)
    rows[LINE - 1]["mesages"] = rows[LINE - 1].pop("messages")

    report = check(tmp_path, rows, "bedrock")

    assert found(report) == {("key-suspect", LINE, "mesages"), ("messages-missing", LINE, "messages")}
    assert "the row has no messages, but 'mesages'" in {problem.problem for problem in report.problems}


def test_call_of_a_tool_that_the_row_has_not_is_found(tmp_path):
    rows = [{**row, "tools": [tool()]} for row in make_rows(120)]
    rows[LINE - 1]["messages"] = with_call()
    good = check(tmp_path, rows, "bedrock")
    rows[LINE - 1]["messages"] = with_call(function={"name": "adds", "arguments": "{}"})

    assert good.problems == ()
    field = "messages[1].tool_calls[0].function.name"
    assert found(check(tmp_path, rows, "bedrock")) == {("tool-call-unknown", LINE, field)}


@pytest.mark.parametrize("before", [{}, [tool(name="")], [tool()]], ids=["first", "after-bad-ones", "after-good-ones"])
def test_tools_that_are_null_are_found_whatever_row_came_before(tmp_path, before):
    rows = [{**row, "tools": [tool()]} for row in make_rows(120)]
    rows[0]["tools"], rows[1]["tools"] = before or None, None
    rows[1]["messages"] = with_call()

    problems = found(check(tmp_path, rows, "bedrock"))

    assert ("tools-type", 2, "tools") in problems
    assert ("tool-call-unknown", 2, "messages[1].tool_calls[0].function.name") in problems
    assert (("tools-type", 1, "tools") in problems) is not bool(before)


@pytest.mark.parametrize("content", [None, "", "I call."])
def test_assistant_that_calls_a_tool_need_not_say_anything(tmp_path, content):
    rows = make_rows(120)
    rows[LINE - 1]["messages"] = with_call()
    rows[LINE - 1]["messages"][1]["content"] = content

    assert check(tmp_path, rows, "bedrock").problems == ()


GOOD_PARAMETERS = [
    pytest.param({"properties": {}}, id="none"),
    pytest.param({"properties": {"a": {"additionalProperties": False}}, "additionalProperties": False}, id="strict"),
    pytest.param({"properties": {"a": {"type": ["string", "null"]}}, "required": ["a"]}, id="two-types"),
    pytest.param({"properties": {"a": {"anyOf": [{"type": "string"}]}, "b": {"enum": [1]}}, "required": []}, id="any"),
    pytest.param({"properties": {"type": {"type": "string"}, "items": {}}, "required": ["items"]}, id="named-so"),
    pytest.param({"properties": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}}, id="reference"),
]


@pytest.mark.parametrize("parameters", GOOD_PARAMETERS)
def test_tool_with_a_good_schema_has_no_problems(tmp_path, parameters):
    rows = [{**row, "tools": [tool(parameters={"type": "object", **parameters})]} for row in make_rows(120)]

    assert check(tmp_path, rows, "nova").problems == ()


GOOD_TEXTS = ["\U0001f469\u200d\U0001f52c?", "  Was ist das?", "\u00ad\u4f60\u597d", "\u0640", "{}", "[INST] a", "."]


@pytest.mark.parametrize("text", GOOD_TEXTS)
def test_text_in_which_something_can_be_seen_is_not_empty(tmp_path, text):
    rows = make_rows(120)
    rows[LINE - 1]["messages"][0]["content"] = text
    plain = [{"prompt": f"{text} {n}"} for n in range(1300)]

    assert check(tmp_path, rows, "bedrock").problems == ()
    assert check(tmp_path, plain, "mtrl").problems == ()


LONG = "the long way round the old harbour walls"
LEAKS = [
    pytest.param("What are 20 and 0?", "20", None, id="number-by-chance"),
    pytest.param("#### The final answer is 20\n\nQuestion: What?\nSolution:", "20", None, id="answer-of-a-shot"),
    pytest.param("Question: What?\nSolution: #### The final answer is 20", "20", "answer-leak", id="own-answer"),
    pytest.param("The answer is 200.", "20", None, id="longer-number"),
    pytest.param("The answer is 20.5.", "20", None, id="decimals"),
    pytest.param("The answer is: **20**.", "20", "answer-leak", id="bold"),
    pytest.param('{"reference": 1, "expected_output": "20"}', "20", "answer-leak", id="json"),
    pytest.param("Pick: a) the long way round the old harbour, b)", LONG, None, id="part"),
    pytest.param("{'reference_answer': 20}", "20", "answer-leak", id="name-of-a-field"),
    pytest.param("The answer to this problem is 20.", "20", "answer-leak", id="words-between"),
    pytest.param("The answer should be 20", "20", "answer-leak", id="should-be"),
    pytest.param("(The answer is A)", "A", "answer-leak", id="letter"),
    pytest.param("The answer is yes, I think.", "yes", "answer-leak", id="yes"),
    pytest.param("The answer is -20.", "20", None, id="other-sign"),
    pytest.param("Is it? Answer yes or no.", "yes", None, id="yes-or-no"),
    pytest.param("Is it? Answer: 'yes'/'no'", "yes", None, id="quoted-choice"),
    pytest.param("Label: good, bad or neither", "good", None, id="first-of-three"),
    pytest.param("Pick the answer: A) one B) two", "A", None, id="listed"),
    pytest.param("Give your answer (A, B, C or D).", "A", None, id="letters"),
    pytest.param('End with the answer after "####". 20 men dig.', "20", None, id="mark-spoken-of"),
    pytest.param("Write the answer. 20 men dig towards a target 20 km away.", "20", None, id="word-alone"),
    pytest.param(
        f"Pick: a) {LONG}", LONG,
        "answer-in-prompt", id="choice",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "answer", "rule"), LEAKS)
def test_answer_leaks_when_it_is_announced_and_not_when_it_stands_there_by_chance(tmp_path, text, answer, rule):
    rows = make_rows(120)
    for row in rows:
        del row["ground_truth"]
    rows[LINE - 1] = {"messages": [{"role": "user", "content": text}], "reference_answer": answer}

    problems = found(check(tmp_path, rows, "bedrock"))

    assert problems == ({(rule, LINE, "messages[0].content")} if rule else set())


SYSTEM = [
    pytest.param("The answer is 20.", "answer-leak", id="told"),
    pytest.param("Question: 8 and 12?\nAnswer: 20", None, id="solved-example"),
    pytest.param("20 years of teaching are behind you.", None, id="by-chance"),
]


@pytest.mark.parametrize("target", ["bedrock", "nova-multiturn", "mtrl"])
@pytest.mark.parametrize(("system", "rule"), SYSTEM)
def test_answer_leaks_in_a_message_before_the_question_too(tmp_path, target, system, rule):
    def messages(number):
        return [{"role": "system", "content": system}, {"role": "user", "content": f"What are 10 and 10, {number}?"}]

    make, field = {
        "bedrock": (lambda n: {"messages": messages(n), "reference_answer": "20"}, "messages[0].content"),
        "nova-multiturn": (
            lambda n: {"id": str(n), "metadata": {"prompt": messages(n), "answer": "20"}},
            "metadata.prompt[0].content",
        ),
        "mtrl": (lambda n: {"prompt": datasets.pack(question=messages(n), ground_truth="20")}, "prompt"),
    }[target]

    problems = found(check(tmp_path, [make(n) for n in range(120)], target, batch_size=12))

    assert problems == {(rule, line, field) for line in range(1, 121) if rule}


def test_answer_to_a_question_before_is_no_leak(tmp_path):
    rows = make_rows(120)
    rows[LINE - 1]["messages"][:0] = [{"role": "user", "content": "Five?"}, {"role": "assistant", "content": "#### 5"}]
    rows[LINE - 1] |= {"reference_answer": "#### 5", "ground_truth": "5"}

    assert check(tmp_path, rows, "bedrock").problems == ()


@pytest.mark.parametrize("reference", ["#### 20", {"final": "20", "unit": "m"}, {"final": 20}])
def test_leak_is_reported_once_with_the_message_that_tells(tmp_path, reference):
    rows = [{**row, "reference_answer": reference, "ground_truth": "20"} for row in make_rows(120)]
    rows[LINE - 1]["messages"].insert(0, {"role": "system", "content": "Answer: 20"})

    assert check(tmp_path, rows, "bedrock").counts == {"answer-leak": 1}
    assert found(check(tmp_path, rows, "bedrock")) == {("answer-leak", LINE, "messages[0].content")}


def test_visible_field_that_tells_the_answer_by_its_name_is_a_leak(tmp_path):
    def cell(number, **more):
        names = ["question", "level", *more]
        return datasets.pack(question=f"What? {number}", ground_truth="5", level="5", visible=names, **more)

    good = check(tmp_path, [{"prompt": cell(n)} for n in range(1300)], "mtrl")
    bad = check(tmp_path, [{"prompt": cell(n, solution="5")} for n in range(1300)], "mtrl")

    assert (good.problems, bad.counts) == ((), {"answer-leak": 1300})


def test_prompt_that_is_too_long_is_found_after_a_longer_one(tmp_path):
    rows = make_rows(120)
    for line, length in ((3, 12_000), (LINE, 9_000)):
        rows[line - 1]["messages"][0]["content"] = "長" * length

    assert found(check(tmp_path, rows, "bedrock")) == {("sequence-length", line, "messages") for line in (3, LINE)}


def test_all_problems_are_reported_at_once_counted_and_kept_up_to_a_bound(tmp_path):
    rows = make_rows(50)
    for row in rows:
        row["messages"][0]["role"] = "human"

    report = check(tmp_path, rows, "bedrock", keep=3)

    assert report.counts == {"rows-min": 1, "role-unknown": 50, "user-missing": 50}
    assert [problem.line for problem in report.problems if problem.rule == "role-unknown"] == [1, 2, 3]
    assert (report.errors, report.warnings, report.ok) == (101, 0, False)
    assert json.loads(json.dumps(report.as_json()))["counts"] == report.counts


def test_ignored_rules_are_not_reported(tmp_path):
    assert check(tmp_path, make_rows(50), "bedrock", ignore=["rows-min"]).ok


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        pytest.param("d.json", '[{"prompt": "a"},\n oops]', 2, id="json"),
        pytest.param("d.csv", 'prompt\n"a" b\n', 2, id="csv"),
        pytest.param("d.parquet", "nope", None, id="parquet", marks=needs("parquet")),
    ],
)
def test_file_that_breaks_off_is_a_problem(tmp_path, name, text, line):
    (tmp_path / name).write_text(text)

    assert ("file-broken", line, "") in found(datasets.check(tmp_path / name, "mtrl"))


@pytest.mark.parametrize("name", ["d.jsonl", "d.json", "d.csv"])
def test_pipe_is_refused_rather_than_read_without_its_beginning(tmp_path, name):
    os.mkfifo(tmp_path / name)

    with pytest.raises(DatasetError, match="a pipe can be read only once"):
        datasets.check(tmp_path / name, "mtrl")
    with pytest.raises(DatasetError, match="a pipe can be read only once"):
        next(datasets.read_rows(tmp_path / name))


@pytest.mark.parametrize("name", ["d.json", pytest.param("d.parquet", marks=needs("parquet"))])
def test_other_formats_than_jsonl_are_refused_and_checked_all_the_same(tmp_path, name):
    rows = make_rows(120)
    rows[3]["messages"][0]["role"] = "human"

    problems = found(check(tmp_path, rows, "bedrock", name=name))

    assert {("file-format", None, ""), ("role-unknown", 4, "messages[0].role")} <= problems


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        pytest.param({"target": "sft"}, ConfigurationError, id="target"),
        pytest.param({"target": "mtrl", "ignore": ["no-such-rule"]}, ConfigurationError, id="rule"),
        pytest.param({"target": "mtrl", "batch_size": 0}, ConfigurationError, id="batch"),
        pytest.param({"target": "mtrl", "path": "gone.jsonl"}, DatasetError, id="file"),
        pytest.param({"target": "mtrl", "path": "gone.json"}, DatasetError, id="json-file"),
        pytest.param({"target": "mtrl", "path": "d.txt"}, DatasetError, id="format"),
    ],
)
def test_misuse_is_refused(tmp_path, arguments, error):
    arguments = {"path": "d.jsonl", **arguments}
    write_rows(tmp_path / "d.jsonl", mtrl(10))

    with pytest.raises(error):
        datasets.check(tmp_path / arguments.pop("path"), **arguments)


def test_progress_is_told_when_a_file_is_checked(tmp_path):
    told = []

    check(tmp_path, mtrl(9000), "mtrl", progress=told.append)

    assert told == sorted(told)
    assert 0 < told[-1] <= (tmp_path / "d.jsonl").stat().st_size


@pytest.mark.parametrize(
    ("target", "name", "rule", "fix"),
    [
        ("bedrock", "my d.json", "file-format", "convert '{}/my d.json' '{}/my d-new.jsonl'"),
        ("bedrock", "d.jsonl", "prompt-duplicate", "dedupe {}/d.jsonl {}/d-new.jsonl"),
        ("mtrl", "d.csv", "file-delimiter", "convert {}/d.csv {}/d-new.csv"),
    ],
)
def test_fix_names_the_file(tmp_path, target, name, rule, fix):
    if name == "d.csv":
        (tmp_path / name).write_text("prompt;level\nWhat?;1\n")
    else:
        write_rows(tmp_path / name, make_rows(1) * 2)

    fixes = {problem.rule: problem.fix for problem in datasets.check(tmp_path / name, target).problems}

    assert fixes[rule] == f"aws-rft dataset {fix.replace('{}', str(tmp_path))}"


def test_rules_are_complete():
    assert {type(rule.severity) for rule in RULES.values()} == {Severity}
    assert all(rule.meaning and rule.fix and rule.targets <= set(Target) for rule in RULES.values())


def test_every_rule_is_described():
    def cells(name, rule):
        severity = rule.severity.value
        lax = "".join(f", {item.value}: warning" for item in Target if item in rule.warns)
        targets = "all" if rule.targets == set(Target) else ", ".join(t.value for t in Target if t in rule.targets)
        return f"| `{name}` | {severity}{lax} | {targets} | {rule.meaning} | {rule.source} |"

    page = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text()

    assert "\n".join(cells(*item) for item in RULES.items()) in page
