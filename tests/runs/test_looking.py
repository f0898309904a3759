"""A run that someone looks at: whole ones, broken ones, and one that is being written to."""

import json
import shutil
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest

from aws_rft_sdk.datasets import pack
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.failures import FailureKind, RolloutStatus
from aws_rft_sdk.runs import _index
from aws_rft_sdk.runs.looking import RunView
from aws_rft_sdk.runs.where import parse_where
from aws_rft_sdk.types import TrajectoryStatus

from .making import Database, answered, calculating, calling, record, said, turn_rows, write_records

PENDING = TrajectoryStatus.PENDING


def ids(view, where=None, **options):
    page = view.rollouts(parse_where(where) if where else None, **options)
    return [one.trajectory_id for one in page.rollouts]


def looked_at(folder, **options):
    """Return the open view of a run with all that is in it."""
    view = RunView.open(folder, **options)
    view.update()
    return view


@pytest.fixture
def folder(tmp_path):
    """Two groups of two rollouts: right, wrong, failed in a tool, and one that never reached the policy."""
    path = tmp_path / "run"
    with Database(path) as database:
        database.add("aa-1", calculating(), rewards=(0.25, 0.75))
        database.add("aa-2", calculating(result="43"), rewards=(0.0,))
        database.add("bb-1", calculating("A hard one?")[:1], status=TrajectoryStatus.FAILED)
        database.add("bb-2", status=TrajectoryStatus.FAILED)
    failed = {"status": RolloutStatus.FAILED, "failure": FailureKind.TOOL, "turns": 1, "seconds": 9.0}
    return write_records(
        path,
        record("aa-1", 0, 0, 1.0, rewards=(0.25, 0.75), metrics={"format": 1.0, "notes": ["a"]}, seconds=2.0),
        record("bb-1", 1, 0, None, error="KeyError: 'x'", traceback="Traceback: here", **failed),
        record("aa-2", 0, 1, 0.0, metrics={"format": 0.5}, seconds=1.0),
        record("bb-2", 1, 1, None, error="KeyError: 'y'", **{**failed, "turns": 0}),
    )


# --- the list --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "aa-1 aa-2 bb-1 bb-2"),
        ({"sort": "reward"}, "aa-2 aa-1 bb-1 bb-2"),
        ({"sort": "-reward"}, "aa-1 aa-2 bb-1 bb-2"),
        ({"sort": "-seconds", "limit": 1}, "bb-1"),
        ({"sort": "-id"}, "bb-2 bb-1 aa-2 aa-1"),
        ({"sort": "metrics.format"}, "aa-2 aa-1 bb-1 bb-2"),
        ({"offset": 3}, "bb-2"),
        ({"limit": 0}, ""),
        ({"where": "outcome=failed and tool=calculator"}, "bb-1"),
        ({"where": "error=tool and tool=none"}, "bb-2"),
        ({"where": "error=KeyError and error~\"'y'\""}, "bb-2"),
        ({"where": "reward=none"}, "bb-1 bb-2"),
        ({"where": "group=0 and not reward=1"}, "aa-2"),
        ({"where": "text.user~'hard one'"}, "bb-1"),
        ({"where": "text.tool~43"}, "aa-2"),
        ({"where": "text.call~'calculator expression'"}, "aa-1 aa-2 bb-1"),
        ({"where": "metrics.format<1"}, "aa-2"),
    ],
)
def test_rollouts_when_listed_then_order_filter_and_page_hold(folder, options, expected):
    with looked_at(folder) as view:
        assert ids(view, **options) == expected.split()


def test_rollouts_when_listed_then_every_field_is_that_of_the_run(folder):
    with looked_at(folder) as view:
        page = view.rollouts(parse_where("id=aa-1"))
        (one,) = page.rollouts
        assert (page.matched, page.total) == (1, 4)
        assert one.to_json() == {
            "trajectory_id": "aa-1",
            "group": 0,
            "sample": 0,
            "attempts": 1,
            "superseded": False,
            "reward": 1.0,
            "turns": 2,
            "prompt_tokens": 30,
            "response_tokens": 10,
            "tokens": 40,
            "seconds": 2.0,
            "started_at": 1_000_000.0,
            "outcome": "completed",
            "error_kind": None,
            "error": None,
            "prompt": "a prompt",
            "tools": {"calculator": 1},
        }
        assert view.counts("outcome") == {"completed": 2, "failed": 2}
        assert view.counts("error") == {"": 2, "tool": 2}
        assert view.counts("tool", parse_where("reward=1")) == {"calculator": 1}
        assert sorted(view.values("reward")) == [0.0, 1.0]
        assert view.values("metrics.format", parse_where("reward=1")) == [1.0]
        assert view.metric_names() == ["format"]
        assert [one.sample for one in view.group(1)] == [0, 1]
        assert view.notes() == []
        with pytest.raises(ConfigurationError, match="cannot be sorted by 'tool'"):
            view.rollouts(sort="tool")


def test_run_when_turns_are_not_read_yet_then_records_are_shown(folder):
    with RunView.open(folder) as view:
        progress = view.update(turns=False)
        assert not progress.is_done
        (one,) = view.rollouts(parse_where("id=aa-1")).rollouts
        assert (one.reward, one.turns, one.tools) == (1.0, 2, None)
        while not view.update(most=1).is_done:
            pass
        assert ids(view, "tool=calculator") == ["aa-1", "aa-2", "bb-1"]


def test_id_when_shortened_then_it_is_found_or_the_candidates_are_named(folder):
    with looked_at(folder) as view:
        assert view.find("aa-1") == "aa-1"
        with pytest.raises(ConfigurationError, match="bb-1, bb-2"):
            view.find("b")
        with pytest.raises(ConfigurationError, match="no rollout whose trajectory_id begins with 'c'"):
            view.find("c")
        write_records(folder, record("aa-11", 2, 0))
        view.update()
        assert view.find("aa-1") == "aa-1"
        assert view.find("aa-11") == "aa-11"


# --- one rollout -----------------------------------------------------------------------------------------------------


def test_conversation_when_read_then_it_has_messages_rewards_and_components(folder):
    with looked_at(folder) as view:
        found = view.conversation("aa-1")
    shown = [(m.turn, m.role, m.text, m.sampled, m.tool) for m in found.messages]
    assert shown == [
        (0, "system", "Calculate.", False, None),
        (0, "user", "How much is 6 * 7?", False, None),
        (0, "assistant", "Let me see.", True, None),
        (1, "tool", "42", False, "calculator"),
        (1, "assistant", "It is 42.", True, None),
    ]
    assert found.messages[2].calls == (("c0", "calculator", '{"expression": "6 * 7"}'),)
    assert [(t.span_id, t.reward, t.prompt_tokens, t.seconds) for t in found.turns] == [
        ("span-0-0", 0.25, 10, 0.5),
        ("span-0-1", 0.75, 20, 0.5),
    ]
    assert found.rewards == (0.25, 0.75)
    assert found.metrics == {"format": 1.0, "notes": ["a"]}
    assert found.notes == ()
    assert json.loads(json.dumps(found.to_json()))["turn_list"][1]["span_id"] == "span-0-1"


def test_traceback_when_only_the_first_error_of_its_kind_has_one_then_that_is_shown(folder):
    with looked_at(folder) as view:
        own, other = view.conversation("bb-1"), view.conversation("bb-2")
    assert (own.traceback, own.traceback_of) == ("Traceback: here", "bb-1")
    assert (other.traceback, other.traceback_of) == ("Traceback: here", "bb-1")
    assert other.notes == ("no inference call of it reached the runtime",)


def test_conversation_when_tools_hold_secrets_then_they_are_masked(tmp_path):
    tool = {"type": "mcp", "headers": {"Authorization": "Bearer s3cret"}, "api_key": "s3cret", "name": "t"}
    with Database(tmp_path) as database:
        database.add("a", rows=turn_rows(0, calculating(), tools=[tool]))
    with looked_at(tmp_path) as view:
        found = view.conversation("a")
    assert found.tools == ({"type": "mcp", "headers": {"Authorization": "***"}, "api_key": "***", "name": "t"},)
    assert "s3cret" not in json.dumps(found.to_json())


# --- a run that is being written to ----------------------------------------------------------------------------------


def test_run_when_written_to_then_what_is_new_comes_in(tmp_path):
    with Database(tmp_path) as database:
        turns = calculating()
        number = database.add("a", turns[:1], status=PENDING)
        (tmp_path / "started.jsonl").write_text('["a", 0, 0, 1]\n["b", 0, 1')
        with looked_at(tmp_path) as view:
            (one,) = view.rollouts().rollouts
            assert (one.outcome, one.group, one.turns, one.tools) == ("open", 0, 1, {"calculator": 1})

            database.add("a", rows=turn_rows(number, turns)[1:], number=number, rewards=(1.0,))
            database.add("b", status=PENDING)
            with (tmp_path / "started.jsonl").open("a") as file:
                file.write(", 1]\n")
            view.update()
            one, other = view.rollouts().rollouts
            assert (one.outcome, one.reward, one.turns, one.tools) == ("completed", 1.0, 2, {"calculator": 1})
            assert ids(view, "text.assistant~'It is 42'") == ["a"]
            assert (other.trajectory_id, other.sample, other.outcome) == ("b", 1, "open")

            with (tmp_path / "rollouts.jsonl").open("w") as file:
                line = record("a", 0, 0, 0.5, seconds=7.0).to_json()
                file.write(line[:30])
                file.flush()
                view.update()
                assert view.rollouts().rollouts[0].reward == 1.0
                file.write(line[30:] + "\n")
            view.update()
            assert (view.rollouts().rollouts[0].reward, view.rollouts().rollouts[0].seconds) == (0.5, 7.0)
            assert view.notes() == []


def test_attempts_when_repeated_then_the_last_one_counts(tmp_path):
    """As after two kills: a failed attempt, one without a record, and one that completed."""
    (tmp_path / "started.jsonl").write_text(
        '["a", 0, 0, 1]\n["b", 0, 0, 2]\n["c", 0, 0, 3]\n["d", 0, 1, 1]\n["b"]\nnoise\n'
    )
    write_records(tmp_path, record("a", 0, 0, None, status=RolloutStatus.FAILED), record("c", 0, 0, attempts=3))
    never = record("not-started-1-0", 1, 0, None, status=RolloutStatus.UNREPORTED, metrics={"x": 1.0})
    write_records(tmp_path, never, never)
    with looked_at(tmp_path) as view:
        assert ids(view) == ["c", "d", "not-started-1-0"]
        assert [one.attempts for one in view.rollouts().rollouts] == [3, 1, 1]
        assert ids(view, superseded=True) == ["a", "b", "c", "d", "not-started-1-0"]
        assert view.rollouts(superseded=True).total == 5
        assert "never started" not in view.conversation("c").notes[0]
        assert any("--db" in note for note in view.notes())
        write_records(tmp_path, record("e", 1, 0))
        view.update()
        assert ids(view) == ["c", "d", "e"]


@pytest.mark.parametrize("name", ["rollouts.jsonl", "trajectories.db", "both"])
def test_index_when_the_run_is_another_one_then_it_is_made_anew(folder, tmp_path, name):
    with looked_at(folder) as view:
        assert len(ids(view)) == 4
    other = tmp_path / "other"
    with Database(other) as database:
        database.add("zz", calculating("Quite another question?"))
        database.add("bb-1", calculating("What is new?"))
    write_records(other, record("zz", 0, 0, 0.125), *(record(f"y{n}", n, 0, traceback="t" * 900) for n in range(1, 9)))
    for file in ["rollouts.jsonl", "trajectories.db"] if name == "both" else [name]:
        shutil.copy(other / file, folder / file)
    with looked_at(folder) as view, looked_at(other) as direct:
        if name == "both":
            assert ids(view) == ids(direct)
        assert ids(view, "text~another") == (["zz"] if name != "rollouts.jsonl" else [])
        assert ids(view, "text~43") == (["aa-2"] if name == "rollouts.jsonl" else [])
        assert ("zz" in ids(view, "reward=0.125")) == (name != "trajectories.db")


def digests(folder):
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if "-view" not in path.name}


def test_run_when_looked_at_then_its_own_files_stay_as_they_are(folder):
    before = digests(folder)
    with looked_at(folder) as view:
        view.conversation("aa-1")
    assert digests(folder) == before
    assert {path.name for path in folder.iterdir()} - set(before) == {"trajectories.db-view"}


def test_index_when_many_build_it_at_once_then_nothing_is_in_it_twice(tmp_path):
    with Database(tmp_path) as database:
        for number in range(450):
            database.add(f"t{number}", calculating(f"question {number}"))
    write_records(tmp_path, *(record(f"t{number}", number) for number in range(450)))
    together = threading.Barrier(4)

    def build(_):
        with RunView.open(tmp_path) as view:
            together.wait(30)
            view.update()
            return (
                view.rollouts(limit=0).matched,
                view.counts("tool"),
                view.rollouts(parse_where("text~question")).matched,
            )

    with ThreadPoolExecutor(4) as pool:
        assert set(map(str, pool.map(build, range(4)))) == {str((450, {"calculator": 450}, 450))}
    with looked_at(tmp_path) as view:
        assert {one.tools["calculator"] for one in view.rollouts(limit=500).rollouts} == {1}


@pytest.mark.parametrize("what", ["folder", "text", "database"])
def test_index_when_its_place_is_taken_then_it_is_a_temporary_file(folder, what):
    place = folder / "trajectories.db-view"
    if what == "folder":
        place.mkdir()
    elif what == "text":
        place.write_text("my notes")
    else:
        with sqlite3.connect(place) as connection:
            connection.execute("CREATE TABLE mine (a)")
        connection.close()
    before = None if what == "folder" else place.read_bytes()
    with looked_at(folder) as view:
        assert ids(view, "text.tool~43") == ["aa-2"]
    assert before is None or place.read_bytes() == before


@pytest.mark.parametrize("has_full_text", [True, False])
def test_search_when_a_language_has_no_spaces_then_words_within_a_sentence_are_found(
    tmp_path, monkeypatch, has_full_text
):
    if not has_full_text:
        monkeypatch.setattr(_index, "_FULL_TEXT", "CREATE VIRTUAL TABLE texts USING fts_that_is_missing(a)")
    with Database(tmp_path / "run") as database:
        database.add("zh", calculating("我住在東京都,每天坐車"))
        database.add("ja", calculating("バスで東へ行き、京都に着いた"))
        database.add("ko", calculating("서울에서 버스를 탔다"))
    with looked_at(tmp_path / "run" / "trajectories.db") as view:
        for words, found in (
            *(("東京", ["zh"]), ("京都", ["zh", "ja"]), ("坐車", ["zh"]), ("バス", ["ja"]), ("버스", ["ko"])),
            ("都京", []),
        ):
            assert ids(view, f"text~{words}") == found, words


def test_index_when_sqlite_has_no_full_text_then_texts_are_searched_without(folder, monkeypatch):
    monkeypatch.setattr(_index, "_FULL_TEXT", "CREATE VIRTUAL TABLE texts USING fts_that_is_missing(a)")
    with looked_at(folder) as view:
        assert not view.full_text
        assert ids(view, "text.tool~43") == ["aa-2"]
        assert ids(view, "text~'HARD one'") == ["bb-1"]
        assert "no FTS5" in view.notes()[0]


# --- what is missing or broken ---------------------------------------------------------------------------------------


def test_run_when_there_is_only_a_database_then_groups_are_its_prompts(tmp_path):
    with Database(tmp_path) as database:
        database.add("a", calculating(), prompt="x", rewards=(1.0,))
        database.add("b", calculating(), prompt={"q": 1}, rewards=(0.5, 0.25))
        database.add("c", calculating()[:1], prompt="x", status=TrajectoryStatus.READY)
        database.add("d", calculating("first words"), prompt=None, status=TrajectoryStatus.FAILED)
        database.add("e", prompt="x", status=PENDING)
    moved = tmp_path / "elsewhere.db"
    shutil.copy(tmp_path / "trajectories.db", moved)
    with looked_at(moved) as view:
        rows = {one.trajectory_id: one for one in view.rollouts().rollouts}
        assert [one.group for one in rows.values()] == [0, 0, 0, 1, None]
        assert [rows[name].outcome for name in "abcde"] == ["completed", "completed", "unrewarded", "failed", "open"]
        assert (rows["b"].reward, rows["b"].turns, rows["b"].tokens, rows["b"].seconds) == (0.75, 2, 40, 1.5)
        assert (rows["b"].prompt, rows["d"].prompt) == ('{"q": 1}', "first words")
        assert (rows["e"].turns, rows["e"].seconds, rows["e"].tokens) == (0, 0.0, None)
        assert "there are no records" in view.notes()[0]
        assert view.conversation("b").rewards == (0.5, 0.25)
    assert (tmp_path / "elsewhere.db-view").exists()


def test_run_when_there_is_no_database_then_records_are_shown_and_that_is_said(folder, tmp_path):
    (folder / "trajectories.db").rename(tmp_path / "other.db")
    with looked_at(folder) as view:
        assert len(ids(view)) == 4
        found = view.conversation("aa-1")
        assert (found.messages, found.rewards) == ((), (0.25, 0.75))
        assert "--db" in found.notes[0]
        assert "--db" in view.notes()[0]
    with looked_at(folder, db=tmp_path / "other.db") as view:
        assert view.conversation("aa-1").messages
        assert ids(view, "text.tool~43") == ["aa-2"]
    with pytest.raises(ConfigurationError, match="there is no database file"):
        RunView.open(folder, db=tmp_path / "none.db")


def test_run_when_the_database_is_named_then_its_records_are_found(folder):
    with looked_at(folder / "trajectories.db") as view:
        assert view.has_records
        assert view.conversation("aa-1").metrics["format"] == 1.0


@pytest.mark.parametrize("run", ["none", "empty", "text.db", "other.db"])
def test_run_when_there_is_none_then_that_is_said(tmp_path, run):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.db").write_text("no database")
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE mine (a)")
    connection.close()
    with pytest.raises(ConfigurationError, match=r"is no run: name a folder|db=.*text.db|db=.*other.db"):
        RunView.open(tmp_path / run)
    assert not list(tmp_path.glob("*-view*"))


def test_records_when_lines_are_damaged_then_they_are_counted(folder):
    text = (folder / "rollouts.jsonl").read_text().splitlines()
    damaged = [
        "{",
        '{"trajectory_id": 7}',
        text[0],
        "[1]",
        text[1].replace('"turns": 1', '"turns": "x"'),
        text[2],
        "\x00",
    ]
    (folder / "rollouts.jsonl").write_text("\n".join(damaged) + "\n")
    with looked_at(folder) as view:
        assert ids(view, "not outcome=open") == ["aa-1", "aa-2", "bb-1", "bb-2"]  # the last two as the runtime has them
        assert "5 lines are no records" in view.notes()[0]
        assert "line 2" in view.notes()[0]


def test_database_when_damaged_then_records_are_shown_and_that_is_said(folder):
    path = folder / "trajectories.db"
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with looked_at(folder) as view:
        assert len(ids(view)) == 4
        assert "damaged" in view.notes()[0]
        assert view.conversation("aa-1").rewards == (0.25, 0.75)
        assert view.conversation("aa-1").notes


def test_database_when_its_damage_is_mended_then_it_is_read_again_and_nothing_more_is_said(tmp_path):
    with Database(tmp_path) as database:
        for number in range(200):
            database.add(f"t-{number}", calculating())
    whole = (tmp_path / "trajectories.db").read_bytes()
    pages = bytearray(whole)
    for start in range(len(whole) // 2, len(whole), 4096):
        pages[start : start + 4096] = b"\xff" * 4096
    (tmp_path / "trajectories.db").write_bytes(pages)
    with looked_at(tmp_path) as view:
        assert "damaged" in " ".join(view.notes())
        assert view.rollouts(parse_where("text~42")).matched < 200
        (tmp_path / "trajectories.db").write_bytes(whole)
        assert view.update().is_done
        assert "damaged" not in " ".join(view.notes())
        assert view.rollouts(parse_where("text~42")).matched == 200
        assert {one.tools["calculator"] for one in view.rollouts(limit=200).rollouts} == {1}


def test_turns_when_one_trajectory_is_damaged_then_the_others_are_read(tmp_path):
    broken = [row._replace(request=b'[1, "no request"') for row in turn_rows(1, calculating())]
    with Database(tmp_path) as database:
        database.add("a", calculating())
        database.add("b", rows=broken)
        database.add("c", calculating())
    with looked_at(tmp_path) as view:
        assert ids(view, "text~42") == ["a", "c"]
        assert view.update().is_done
        assert any("trajectory 1" in note for note in view.notes())
        assert view.conversation("b").notes


@pytest.mark.parametrize(
    "response", [b"null", b'{"choices": 7}', b'{"choices": [{"message": {"content": [1, null]}}]}']
)
def test_turns_when_they_are_odd_json_then_they_are_shown_as_far_as_possible(tmp_path, response):
    request = {
        "messages": [said("user", 7), {"role": 3}, calling(None, ("f", "{")), answered("x", 5), {"content": [{}]}]
    }
    odd = [row._replace(request=json.dumps(request).encode(), response=response) for row in turn_rows(0, calculating())]
    with Database(tmp_path) as database:
        database.add("a", rows=odd)
    with looked_at(tmp_path) as view:
        found = view.conversation("a")
        json.dumps(found.to_json())
        assert found.messages[0].text == "7"
        assert found.messages[2].calls[0].arguments == "{"


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        (pack(question="How many?", ground_truth="7"), "How many?"),
        ('{"question": "How many?", "answer": "7"}', "How many?"),
        ('{"question": ["a"], "answer": "7"}', '{"question": ["a"], "answer": "7"}'),
        ('{"no": "question"}', '{"no": "question"}'),
        ("{not JSON", "{not JSON"),
    ],
)
def test_prompt_when_it_is_a_packed_cell_then_lists_show_its_question(tmp_path, prompt, shown):
    with Database(tmp_path) as database:
        database.add("t-0", calculating(), prompt=prompt)
    with RunView.open(tmp_path) as view:
        view.update()
        assert view.rollouts().rollouts[0].prompt == shown
