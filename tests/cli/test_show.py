"""`aws-rft show` on runs as they are left, and on contents that mean harm."""

import json
import re

import pytest
from click.testing import CliRunner
from runs.making import Database, answered, calculating, calling, record, said, write_records

from aws_rft_sdk.cli import main
from aws_rft_sdk.cli._chat import folded, visible
from aws_rft_sdk.failures import FailureKind, RolloutStatus
from aws_rft_sdk.types import TrajectoryStatus


def show(*arguments, columns=160):
    runner = CliRunner(env={"COLUMNS": str(columns)})
    return runner.invoke(main, ["show", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "run"
    with Database(path) as database:
        database.add("aaaa1111-x", calculating(), rewards=(0.25, 0.75), prompt="multiply")
        database.add("aaaa2222-x", calculating(result="43"), rewards=(0.0,), prompt="multiply")
        database.add("bbbb1111-x", calculating("A hard one?")[:1], status=TrajectoryStatus.FAILED, prompt="a hard\none")
    failed = {"status": RolloutStatus.FAILED, "failure": FailureKind.TOOL, "error": "KeyError: 'x'"}
    return write_records(
        path,
        record("aaaa1111-x", 0, 0, 1.0, rewards=(0.25, 0.75), metrics={"format": 1.0}, seconds=2.0),
        record("aaaa2222-x", 0, 1, 0.0, seconds=1.0),
        record("bbbb1111-x", 1, 0, None, traceback="Traceback (most recent call last):\n  here", turns=1, **failed),
    )


def shown_ids(output):
    return re.findall(r"^([ab]{4}\d{4})", output, re.MULTILINE)


TABLES = {
    "": "aaaa1111 aaaa2222 bbbb1111",
    "--worst": "aaaa2222 aaaa1111 bbbb1111",
    "--best": "aaaa1111 aaaa2222 bbbb1111",
    "--failed": "bbbb1111",
    "--group 0": "aaaa1111 aaaa2222",
    "--group 0 --worst --limit 1": "aaaa2222",
    "--sort seconds": "aaaa2222 bbbb1111 aaaa1111",
    "--sort -seconds": "aaaa1111 bbbb1111 aaaa2222",
    "--where text.tool~43": "aaaa2222",
    "--where tool=calculator --failed": "bbbb1111",
    "--where reward>5": "",
}


@pytest.mark.parametrize("options", TABLES)
def test_table_when_shown_then_these_rollouts_stand_in_this_order(folder, options):
    result = show(folder, *options.split())
    assert result.exit_code == 0
    assert shown_ids(result.output) == TABLES[options].split()
    as_json = json.loads(show(folder, *options.split(), "--json").output)
    assert [one["trajectory_id"][:8] for one in as_json["rollouts"]] == TABLES[options].split()


def test_table_when_shown_then_it_says_what_each_took_and_how_many_more_there_are(folder):
    lines = show(folder, "--limit", 2).output.splitlines()
    assert lines[0].split() == ["id", "group", "reward", "turns", "tokens", "seconds", "outcome", "error", "prompt"]
    assert lines[1].split() == ["aaaa1111", "0/0", "1", "2", "-", "2.00", "completed", "multiply"]
    assert lines[-1] == "2 of 3 rollouts; --limit 3 shows all"
    assert show(folder, "--failed").output.splitlines()[-1] == "1 of 1 rollouts that match, of 3"
    assert "tool" in show(folder, "--failed").output


def test_conversation_when_shown_then_it_reads_as_a_chat(folder):
    output = show(folder, "aaaa1", "--spans").output
    expected = [
        "rollout aaaa1111-x",
        "completed, group 0, sample 0",
        "reward         1 (of 2 turns: 0.25, 0.75)",
        "components     format 1",
        "tools offered  calculator",
        "--- system",
        "    Calculate.",
        "--- user",
        "    How much is 6 * 7?",
        "--- turn 0, after 0.00 s, took 0.50 s, 10+5 tokens, ended by stop, reward 0.25, span span-0-0: assistant",
        "    Let me see.",
        '    -> calculator({"expression": "6 * 7"})',
        "--- tool calculator answers",
        "    42",
        "--- turn 1, after 1.00 s, took 0.50 s, 20+5 tokens, ended by stop, reward 0.75, span span-0-1: assistant",
        "    It is 42.",
    ]
    lines = output.splitlines()
    places = [lines.index(line) for line in expected]
    assert places == sorted(places)
    assert "span-" not in show(folder, "aaaa1").output
    failed = show(folder, "b").output
    assert "error (tool)\n    KeyError: 'x'\ntraceback\n    Traceback (most recent call last):\n      here" in failed


@pytest.mark.parametrize("columns", [70, 160])
def test_difference_when_shown_then_it_begins_where_they_part(folder, columns):
    output = show(folder, "aaaa1", "--diff", "aaaa2", columns=columns).output
    assert "the first 3 messages are the same; from here on they part" in output
    assert "How much is" not in output
    together = [line for line in output.splitlines() if "aaaa1111-x" in line and "aaaa2222-x" in line]
    assert bool(together) == (columns == 160)
    assert "all 5 messages are the same" in show(folder, "aaaa1", "--diff", "aaaa1").output
    found = json.loads(show(folder, "aaaa1", "--diff", "aaaa2", "--json").output)
    assert (found["same_messages"], found["parts"]) == (3, True)
    assert [one["trajectory_id"] for one in found["rollouts"]] == ["aaaa1111-x", "aaaa2222-x"]


MISTAKES = {
    "aaaa": "aaaa1111-x, aaaa2222-x",
    "zzz": "no rollout whose trajectory_id begins with 'zzz'",
    "--where reward<": "at character 8",
    "--sort height": "cannot be sorted by 'height'",
    "--worst --sort reward": "contradict each other",
    "--full": "name it: aws-rft show RUN ID",
    "aaaa1 --failed": "leave out ID",
    "--group -1": "x>=0",
    "--db nowhere.db": "there is no database file nowhere.db",
}


@pytest.mark.parametrize("arguments", MISTAKES)
def test_show_when_used_wrongly_then_it_says_what_to_type(folder, arguments):
    result = show(folder, *arguments.split())
    assert result.exit_code == 2
    assert MISTAKES[arguments] in re.sub(r"\s+", " ", result.output)


def test_show_when_there_is_no_run_then_it_says_so(tmp_path):
    assert show(tmp_path / "none").exit_code == 2
    assert show("http://127.0.0.1:9").exit_code == 3


# --- contents that mean harm -----------------------------------------------------------------------------------------

HARM = {
    "colors": "\x1b[31mred\x1b[0m",
    "title": "\x1b]0;owned\x07",
    "link": "\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\",
    "clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "clear": "\x1b[2J\x1b[H",
    "query": "\x1b[6n\x1bP$q\x1b\\",
    "8-bit": "\x9b31m\x9d0;owned\x9c",
    "overwrite": "reward 1\rreward 0\b\b\b",
    "bidi": "user\u202e \u2066// admin\u2069 \u2067x\u061c\u200f",
    "zero width": "pass\u200bword\u2060\ufeff",
    "tags": "hi\U000e0068\U000e0069",
    "separators": "a\u2028b\u2029c\x85d",
    "nul": "a\x00b\x7f",
    "half a pair": "a\ud83d!",
    "markup": "[bold red]x[/] :smile: [link=http://evil]y[/link]",
}
BAD = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]|\U000e0068"
)


@pytest.mark.parametrize("name", HARM)
def test_content_when_it_means_harm_then_the_terminal_gets_its_escapes(tmp_path, name):
    text = HARM[name]
    asked = [said("system", text), said("user", text)]
    call = calling(text, (text, text))
    with Database(tmp_path) as database:
        for trajectory_id in ("a", "b"):
            turns = [(asked, call), ([*asked, call, answered(trajectory_id + text)], said("assistant", text))]
            database.add(trajectory_id, turns, prompt=text)
    safe = text.encode("utf-8", "backslashreplace").decode()
    values = {"status": RolloutStatus.FAILED, "error": safe, "traceback": safe, "metrics": {safe: safe}, "state": safe}
    write_records(tmp_path, record("a", **values), record("b", 0, 1, **values))
    for arguments in ((), ("a",), ("a", "--full", "--spans"), ("a", "--diff", "b"), ("a", "--diff", "b", "--full")):
        for columns in (60, 160):
            result = show(tmp_path, *arguments, columns=columns)
            assert result.exit_code == 0
            assert BAD.search(result.output) is None, repr(BAD.search(result.output))
        result = show(tmp_path, *arguments, "--json")
        assert result.exit_code == 0
        assert BAD.search(result.output.replace("\n", "")) is None
    assert visible(text) in show(tmp_path, "a").output


def test_content_when_it_has_a_megabyte_in_one_line_then_its_beginning_is_shown(tmp_path):
    long = "x" * 1_000_000
    asked = [said("user", "q")]
    call = calling(long, ("f", long))
    with Database(tmp_path) as database:
        database.add("a", [(asked, call), ([*asked, call, answered(long)], said("assistant", "end"))], prompt=long)
    assert len(show(tmp_path).output) < 1000
    output = show(tmp_path, "a").output
    assert len(output) < 30_000
    assert "999,400 more characters; --full shows them" in output
    assert show(tmp_path, "a", "--full").output.count("x" * 1000) >= 3000


@pytest.mark.parametrize(
    ("text", "role", "shown"),
    [
        ("a\r\nb\tc", "user", "a\nb\tc"),
        (
            "\n".join(map(str, range(12))),
            "tool",
            "\n".join(map(str, range(10))) + "\n... 6 more characters; --full shows them",
        ),
        ("é" * 601, "tool", "é" * 600 + "\n... 1 more characters; --full shows them"),
        ("family 👨‍👩‍👧 naïve 日本語", "user", "family 👨‍👩‍👧 naïve 日本語"),
    ],
    ids=["line ends", "lines", "characters", "pictures"],
)
def test_text_when_long_then_it_is_folded_and_else_it_stays(text, role, shown):
    assert folded(text, role) == shown
    assert folded(text, role, full=True) == text.replace("\r\n", "\n")
