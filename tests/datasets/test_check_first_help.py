"""What a check says first: that a file is no jsonl, that rows are made for something else, what only Nova refuses."""

import gzip
import json
import shlex
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner
from damage import make_rows, tool

from aws_rft_sdk import datasets
from aws_rft_sdk.cli import main
from aws_rft_sdk.datasets import RULES, Severity, Target

ROWS = make_rows(120)
CELLS = [{"prompt": datasets.pack(question=f"What is {n}?", ground_truth=f"w{n}")} for n in range(1300)]


def question(n):
    return f"What is {n} plus {n + 3}?"


def run(command):
    """Run commands as a check prints them; return the text of the last one."""
    for part in command.split(" && "):
        name, *arguments = shlex.split(part)
        if name == "mv":
            source, target = arguments
            Path(source).rename(target)
        else:
            result = CliRunner().invoke(main, arguments)
            assert result.exit_code == 0, result.output
    return result.output


WHOLE_FILES = [
    pytest.param("\n".join(json.dumps(row, indent=2) for row in ROWS), "file-pretty", "120 objects", id="objects"),
    pytest.param(json.dumps(ROWS[0], indent=2), "file-pretty", "1 object on", id="one-object"),
    pytest.param("\n\ufeff" + json.dumps(ROWS[0], indent=2), "file-pretty", "1 object on", id="blank-line-and-mark"),
    pytest.param(json.dumps(ROWS[0], indent=2)[:-20], "file-pretty", "not JSON either", id="object-cut-off"),
    pytest.param(json.dumps(ROWS), "file-array", "array of 120 rows", id="array-on-one-line"),
    pytest.param(json.dumps(ROWS[:1]), "file-array", "array of 1 row,", id="array-of-one-row"),
    pytest.param(json.dumps(ROWS, indent=2), "file-array", "array of 120 rows", id="array-pretty-printed"),
    pytest.param("[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n", "file-array", "120 rows", id="row-a-line"),
    pytest.param("[\n" + ",\n".join(map(json.dumps, ROWS)) + ",\n]\n", "file-array", "not JSON", id="trailing-comma"),
]


@pytest.mark.parametrize("target", ["bedrock", "mtrl"])
@pytest.mark.parametrize(("text", "rule", "says"), WHOLE_FILES)
def test_json_that_is_not_one_object_a_line_is_one_problem(tmp_path, text, rule, says, target):
    (tmp_path / "my rows.jsonl").write_text(text)

    report = datasets.check(tmp_path / "my rows.jsonl", target)

    (problem,) = report.problems
    assert (problem.rule, problem.line, report.ok) == (rule, 1, False)
    assert says in problem.problem
    assert "'" in problem.fix  # the name of the file has a blank
    if rule == "file-array" and "not JSON" not in says:
        assert run(problem.fix).startswith(f"{report.rows} row")
        assert datasets.check(tmp_path / "my rows-rows.jsonl", "bedrock", ignore=["rows-min"]).problems == ()


def test_compressed_array_is_renamed_to_what_it_is(tmp_path):
    with gzip.open(tmp_path / "d.jsonl.gz", "wt") as file:
        json.dump(ROWS, file)

    (problem,) = datasets.check(tmp_path / "d.jsonl.gz", "bedrock", ignore=["file-format"]).problems

    assert run(problem.fix) == f"120 rows in {tmp_path / 'd-rows.jsonl'}\n"


def test_array_of_nothing_is_a_file_without_rows(tmp_path):
    (tmp_path / "d.jsonl").write_text("[]\n")

    assert datasets.check(tmp_path / "d.jsonl", "bedrock").counts == {"rows-none": 1}


@pytest.mark.parametrize("first", ["[1]", '{"messages": [],}', '{"messages": ['])
def test_bad_first_line_of_many_is_a_problem_of_that_line(tmp_path, first):
    (tmp_path / "d.jsonl").write_text("\n".join([first, *map(json.dumps, ROWS)]))

    (problem,) = datasets.check(tmp_path / "d.jsonl", "bedrock").problems

    assert (problem.rule, problem.line) in {("row-json", 1), ("row-object", 1)}


def chat(n):
    return [{"role": "user", "content": question(n)}]


SHAPES = {
    "question/answer": lambda n: {"question": question(n), "answer": f"#### {2 * n}"},
    "ShareGPT": lambda n: {
        "conversations": [{"from": "human", "value": question(n)}, {"from": "gpt", "value": f"{2 * n}"}]
    },
    "verl": lambda n: {"prompt": chat(n), "reward_model": {"style": "rule", "ground_truth": f"{2 * n}"}},
    "TRL": lambda n: {"prompt": chat(n), "answer": f"{2 * n}"},
    "prompt/completion": lambda n: {"prompt": question(n), "completion": f"{2 * n}"},
    "Alpaca instruction/output": lambda n: {"instruction": question(n), "input": "", "output": f"{2 * n}"},
    "bedrock": lambda n: {"messages": chat(n), "reference_answer": f"{2 * n}"},
    "nova-multiturn": lambda n: {"id": str(n), "metadata": {"prompt": question(n), "answer": f"{2 * n}"}},
    "mtrl": lambda n: CELLS[n],
}
OTHERS = [
    (name, target)
    for target in ("bedrock", "nova", "nova-multiturn", "mtrl")
    for name in SHAPES
    if name != target and not (name == "bedrock" and target == "nova")
]


@pytest.mark.parametrize(("name", "target"), OTHERS, ids=lambda value: value.replace("/", "-"))
def test_rows_of_another_known_shape_are_one_problem_and_the_command_that_mends_it(tmp_path, name, target):
    datasets.write_rows(tmp_path / "d.jsonl", (SHAPES[name](n) for n in range(1300)))

    (problem,) = datasets.check(tmp_path / "d.jsonl", target).problems

    if problem.rule != "columns-ignored":  # a job of mtrl runs on a column of questions, without the answers
        assert (problem.rule, problem.line) == ("row-shape", 1)
        assert problem.problem == f"these are {name} rows, 1,300 from here on"
    if name.startswith("Alpaca"):
        assert problem.fix.startswith("write each row as {")
    else:
        assert run(problem.fix) == f"1,300 rows in {tmp_path / f'd-{target}.jsonl'}\n"
        assert datasets.check(tmp_path / f"d-{target}.jsonl", target).problems == ()


def test_rows_of_several_shapes_are_one_problem_each_and_the_others_are_checked(tmp_path):
    rows = [*ROWS, SHAPES["question/answer"](1), SHAPES["TRL"](2), SHAPES["TRL"](3), {"text": "What?"}]
    datasets.write_rows(tmp_path / "d.jsonl", rows)

    report = datasets.check(tmp_path / "d.jsonl", "bedrock")

    shapes = [(problem.line, problem.problem) for problem in report.problems if problem.rule == "row-shape"]
    assert shapes == [(121, "this is a question/answer row"), (122, "these are TRL rows, 2 from here on")]
    assert (report.rows, report.counts["messages-missing"], report.counts["reference-missing"]) == (124, 1, 1)


def without_description(row):
    row["tools"] = [tool(description="")]


NOVA_ONLY = {
    "message-key": lambda row: row["messages"][0].update(weight=1),
    "part-key": lambda row: row["messages"][0].update(content=[{"type": "text", "text": question(5), "lang": "en"}]),
    "id-type": lambda row: row.update(id=5),
    "tool-description": without_description,
    "tool-parameters": lambda row: row.update(tools=[tool(parameters=None)]),
    "prompt-duplicate": lambda row: row.update(messages=ROWS[0]["messages"], reference_answer="#### 2003"),
    "system-first": lambda row: row["messages"].append({"role": "system", "content": "Be short."}),
    "reference-type": lambda row: row.update(reference_answer=72),
}


@pytest.mark.parametrize("rule", NOVA_ONLY)
def test_rule_that_only_the_sources_of_nova_state_is_a_warning_for_bedrock(tmp_path, rule):
    rows = json.loads(json.dumps(ROWS))
    for row in rows:
        row |= {"id": f"row-{row['ground_truth']}", "tools": [tool()]}
    NOVA_ONLY[rule](rows[7])
    datasets.write_rows(tmp_path / "d.jsonl", rows)

    found = {target: datasets.check(tmp_path / "d.jsonl", target) for target in ("bedrock", "nova")}

    assert found["bedrock"].ok, found["bedrock"].counts
    assert not found["nova"].ok
    assert {report.counts[rule] for report in found.values()} == {1}
    assert {problem.severity for problem in found["bedrock"].problems} == {Severity.WARNING}
    assert RULES[rule].severity_for(Target.BEDROCK) is Severity.WARNING


def test_keys_beside_the_known_ones_are_no_problem_for_a_service_that_passes_them_on(tmp_path):
    datasets.write_rows(tmp_path / "d.jsonl", [{**row, "level": {"of": 5}, "tags": ["a"]} for row in ROWS])

    assert datasets.check(tmp_path / "d.jsonl", "bedrock").problems == ()


ANSWERS = [
    *(pytest.param(value, set(), id=json.dumps(value)) for value in ({}, "no refund", "0", "false", "{}", "[]")),
    *(pytest.param({"value": value}, set(), id=f"value-{json.dumps(value)}") for value in (0, False, {}, [], "none")),
    *(pytest.param(value, {"reference-type"}, id=f"bare-{json.dumps(value)}") for value in (0, False, [])),
    *(pytest.param(value, {"reference-empty"}, id=f"no-{value!r}") for value in (None, "", " \n", "Worked.\n####")),
    *(pytest.param({"text": value}, {"reference-empty"}, id=f"no-text-{value!r}") for value in (None, "")),
]


@pytest.mark.parametrize(("answer", "rules"), ANSWERS)
def test_answer_that_looks_empty_is_one_unless_it_is_null_or_blank(tmp_path, answer, rules):
    rows = [{"messages": row["messages"], "reference_answer": row["reference_answer"]} for row in ROWS]
    rows[7]["reference_answer"] = answer
    datasets.write_rows(tmp_path / "d.jsonl", rows)

    report = datasets.check(tmp_path / "d.jsonl", "bedrock")

    assert set(report.counts) == rules
    assert report.ok is ("reference-empty" not in rules)


BAD_SCHEMAS = [
    ({"a": {"anyOf": "x"}}, "properties.a.anyOf"),
    ({"a": {"anyOf": [{"type": "int"}]}}, "properties.a.anyOf[0].type"),
    ({"a": {"type": "number", "minimum": "3"}}, "properties.a.minimum"),
    ({"a": {"items": {"items": {"type": "text"}}}}, "properties.a.items.items.type"),
    ({"required": {"type": "int"}}, "properties.required.type"),
]


@pytest.mark.parametrize(("properties", "field"), BAD_SCHEMAS, ids=[field for _, field in BAD_SCHEMAS])
def test_tool_with_parameters_that_are_no_json_schema_is_found(tmp_path, properties, field):
    rows = [{**row, "tools": [tool()]} for row in ROWS]
    rows[7]["tools"] = [tool(parameters={"type": "object", "properties": properties})]
    datasets.write_rows(tmp_path / "d.jsonl", rows)

    (problem,) = datasets.check(tmp_path / "d.jsonl", "bedrock").problems

    assert (problem.rule, problem.field) == ("tool-property", f"tools[0].function.parameters.{field}")


@pytest.mark.parametrize(
    ("count", "says"),
    [
        (0, "0 rows for bedrock: 1 error, 0 warnings"),
        (1, "1 row for bedrock: 1 error, 0 warnings"),
        (2, "2 rows for bedrock: 1 error, 0 warnings"),
    ],
)
def test_things_are_counted_in_the_right_number(tmp_path, count, says):
    (tmp_path / "d.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS[:count]))

    result = CliRunner().invoke(main, ["dataset", "check", str(tmp_path / "d.jsonl"), "--for", "bedrock"])

    assert says in result.stdout
    assert (result.exit_code, "the file has no rows" in result.stdout) == (1, count == 0)


WEIRD = [None, True, 0, -1.5, "", "user", "{}", "\u200b", [], {}, [{}], {"type": "text"}, 10**30]
CALL = {"id": "c", "type": "function", "function": {"name": "add", "arguments": "{}"}}
WHOLE = [
    {
        "id": "a",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "What?"}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c", "content": "5"},
        ],
        "reference_answer": {"text": "5"},
        "tools": [tool(parameters={"type": "object", "properties": {"a": {"items": {"type": "null"}}}})],
    },
    {"id": "a", "metadata": {"prompt": [{"role": "user", "content": "What?"}], "answer": "5", "info": {"a": 1}}},
    *(make(1) for make in SHAPES.values()),
]


def mutated(value, random):
    """Return a value of which about every tenth part is left out, renamed or replaced by something weird."""
    if random.random() < 0.1:
        return random.choice(WEIRD)
    if isinstance(value, dict):
        names = {name: random.choice([name] * 20 + ["", "a.b", "<text>", "[0]", "role", name + "s"]) for name in value}
        return {names[name]: mutated(item, random) for name, item in value.items() if random.random() > 0.05}
    return [mutated(item, random) for item in value if random.random() > 0.05] if isinstance(value, list) else value


@pytest.mark.parametrize("seed", range(20))
def test_whatever_rows_hold_a_check_ends_in_a_report(tmp_path, seed):
    random = Random(seed)
    for name in ("d.jsonl", "d.json"):
        rows = [mutated(random.choice(WHOLE), random) for _ in range(60)]
        text = json.dumps(rows) if name == "d.json" else "\n".join(map(json.dumps, rows))
        (tmp_path / name).write_text(text)

        for target in Target:
            report = datasets.check(tmp_path / name, target)
            assert json.loads(json.dumps(report.as_json()))["ok"] is False
