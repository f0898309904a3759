"""How much a database keeps: full, last, none. What can be read back, and what says that it cannot."""

from __future__ import annotations

import itertools
import json
import sqlite3
from contextlib import closing

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from aws_rft_sdk.cli import main
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime import LocalRuntime, UpstreamPolicy, read_trajectories, write_recordings
from aws_rft_sdk.runtime.capture import Texts, restore

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


def policy(request):
    text = f"answer {len(request['messages'])}"
    return {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": USAGE}


def play(wire, payload, turns=4, **fields):
    """Play a conversation that grows with every turn; return the bodies that were sent."""
    messages, sent = [{"role": "system", "content": "Be brief. \u00e9\U0001f600"}], []
    for turn in range(turns):
        messages.append({"role": "user", "content": f"question {turn}"})
        body = {"messages": list(messages), "tools": TOOLS, "model": "m", **fields}
        answer = wire.chat(payload, span=f"s{turn}", **body).json()
        messages.append(answer["choices"][0]["message"])
        sent.append(body)
    return sent


# --- the form that is stored -----------------------------------------------------------------------------------------

_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("ab\u00e9\ud800", max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=2),
    max_leaves=5,
)
_MESSAGES = st.lists(st.dictionaries(st.sampled_from(["role", "content"]), _VALUES), min_size=1, max_size=5)
_REQUESTS = st.fixed_dictionaries(
    {"messages": _MESSAGES}, optional={"tools": _VALUES, "temperature": _VALUES, "stream": st.booleans()}
)


@given(st.lists(_REQUESTS, min_size=1, max_size=5))
def test_requests_when_stored_as_differences_then_restored_to_the_letter(requests):
    bodies = [json.dumps(request).encode() for request in requests]
    texts = [Texts.of(body) for body in bodies]
    stored = [bodies[0], *(now.after(before) for before, now in itertools.pairwise(texts))]
    restored = [json.loads(body) for body in restore(stored)]
    # Compared as text, which tells 1 from 1.0 and from true.
    assert [json.dumps(one, sort_keys=True) for one in restored] == [
        json.dumps(one, sort_keys=True) for one in requests
    ]


# --- a runtime -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "file"])
def db(request, tmp_path):
    return ":memory:" if request.param == "memory" else tmp_path / "runs.db"


@pytest.mark.parametrize("capture", ["full", "last"])
def test_capture_when_full_or_last_then_every_request_and_answer_is_read_back(capture, db, open_wire):
    with LocalRuntime(policy, db=db, capture=capture) as runtime:
        wire, payload = open_wire(runtime), runtime.new_rollout("p")
        sent = play(wire, payload)
        # Another agent's turn in between, a summary that cuts the history, and a field that goes.
        sent += play(wire, runtime.new_rollout("q"), turns=2, temperature=1)
        for number, body in enumerate(({"messages": [{"role": "user", "content": "short"}]}, sent[3])):
            wire.chat(payload, span=f"more{number}", **body)
            sent.insert(4 + number, body)
        first, second = runtime.trajectories()
        assert [turn.request for turn in (*first.turns, *second.turns)] == sent
        assert [turn.message["content"] for turn in first.turns] == [
            "answer 2",
            "answer 4",
            "answer 6",
            "answer 8",
            "answer 1",
            "answer 8",
        ]
        assert [turn.usage for turn in first.turns] == [USAGE] * 6
        assert first.messages[:-1] == sent[3]["messages"]
        assert first.repeated_turns == (5,)
    assert [turn.request for turn in runtime.trajectories()[0].turns] == sent[:6]
    if db != ":memory:":
        assert [turn.request for turn in read_trajectories(db)[0].turns] == sent[:6]


def test_capture_when_last_then_a_request_is_stored_once_and_the_last_turn_costs_as_much_as_the_first(
    tmp_path, open_wire
):
    sizes = {}
    for capture in ("full", "last", "none"):
        path = tmp_path / f"{capture}.db"
        with LocalRuntime(policy, db=path, capture=capture) as runtime:
            play(open_wire(runtime), runtime.new_rollout("p"), turns=20)
        with closing(sqlite3.connect(path)) as connection:
            rows = connection.execute("SELECT length(request) FROM turns ORDER BY key").fetchall()
        sizes[capture] = [size for (size,) in rows]
    assert sizes["full"][19] > 5 * sizes["full"][0]
    assert max(sizes["last"][1:]) < sizes["last"][0]
    assert sizes["none"] == [4] * 20


def test_capture_when_none_then_turns_tokens_and_rewards_are_all_there_is(db, open_wire):
    with LocalRuntime(policy, db=db, capture="none") as runtime:
        wire, payload = open_wire(runtime), runtime.new_rollout("p")
        play(wire, payload)
        assert wire.complete(payload).status_code == 200
        assert wire.reward(payload, rewards=[1.0, 2.0, 3.0]).status_code == 400
        assert wire.reward(payload, rewards=[1.0, 2.0, 3.0, 4.0]).status_code == 200
        (trajectory,) = runtime.trajectories()
        assert trajectory.rewards == (1.0, 2.0, 3.0, 4.0)
        assert [(turn.request, turn.response, turn.usage) for turn in trajectory.turns] == [
            (None, {"usage": USAGE}, USAGE)
        ] * 4
        assert [turn.span_id for turn in trajectory.turns] == ["s0", "s1", "s2", "s3"]
        assert (trajectory.messages, trajectory.repeated_turns) == ([], ())
        assert runtime.observe(trajectory.trajectory_id)["usage"] == [USAGE] * 4
        assert runtime.problems() == []


@pytest.mark.parametrize("capture", ["full", "last", "none"])
def test_capture_when_a_call_is_repeated_then_answered_as_before(capture, db, open_wire):
    with LocalRuntime(policy, db=db, capture=capture) as runtime:
        wire, payload = open_wire(runtime), runtime.new_rollout("p")
        sent = play(wire, payload)
        for turn, body in enumerate(sent):
            again = wire.chat(payload, span=f"s{turn}", **body)
            assert again.json()["choices"][0]["message"]["content"] == f"answer {2 * turn + 2}"
        assert "was used for another request" in wire.chat(payload, span="s1", **sent[2]).json()["Message"]
        assert len(runtime.trajectories()[0].turns) == 4
        wire.complete(payload)
        late = wire.chat(payload, span="s1", **sent[1])
        if capture == "none":
            assert (late.status_code, "--capture none" in late.json()["Message"]) == (400, True)
        else:
            assert late.json()["choices"][0]["message"]["content"] == "answer 4"


@pytest.mark.parametrize("capture", ["full", "last", "none"])
@pytest.mark.parametrize("after", ["full", "last", "none"])
def test_capture_when_a_file_is_continued_in_another_way_then_both_parts_are_read(capture, after, tmp_path, open_wire):
    path, sent = tmp_path / "runs.db", []
    with LocalRuntime(policy, db=path, capture=capture) as runtime:
        payload = runtime.new_rollout("p")
        sent += play(open_wire(runtime), payload, turns=3)
    with LocalRuntime(policy, db=path, capture=after) as runtime:
        wire = open_wire(runtime)
        for number, body in enumerate(sent):
            wire.chat(payload, span=f"after{number}", **body)
        repeated = wire.chat(payload, span="after2", **sent[2])
        assert repeated.json()["choices"][0]["message"]["content"] == "answer 6"
        before = wire.chat(payload, span="s2", **sent[2])
        assert before.status_code == (400 if capture == "none" else 200)
    expected = [None if kind == "none" else body for kind in (capture, after) for body in sent]
    assert [turn.request for turn in read_trajectories(path)[0].turns] == expected
    with closing(sqlite3.connect(path)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    assert version == (1 if (capture, after) == ("full", "full") else 2)  # older packages refuse version 2


@pytest.mark.parametrize("capture", ["full", "last"])
def test_capture_when_an_upstream_server_streams_then_a_repetition_streams_too(capture, upstream, open_wire):
    event = {"choices": [{"index": 0, "delta": {"content": "4"}, "finish_reason": "stop"}]}
    upstream.streams(b"data: " + json.dumps(event).encode() + b"\n\n", b"data: [DONE]\n\n")
    with LocalRuntime(UpstreamPolicy(upstream.url), capture=capture) as runtime:
        wire, payload = open_wire(runtime), runtime.new_rollout("p")
        first = wire.chat(payload, span="s", stream=True)
        again = wire.chat(payload, span="s", stream=True)
        assert "[DONE]" in first.text
        assert '"content":"4"' in again.text.replace(" ", "")
        assert len(upstream.requests) == 1


# --- what needs requests and answers ---------------------------------------------------------------------------------

AGENT = """
import json, urllib.request
from aws_rft_sdk import RFTContext, rft_handler
from strands import Agent
from aws_rft_sdk import runtime_model

MODEL = runtime_model()

@rft_handler
def handler(payload):
    agent = Agent(model=MODEL, callback_handler=None)
    for _ in range(3):
        agent("go on")
    return 1.0

def reward(rollout):
    return 0.5
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """For each way to capture: a folder of records, and the database of the runtime that the rollouts ran at."""
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "agent.py").write_text(AGENT)
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"p{n}"}) + "\n" for n in range(3)))
    made = {}
    for capture in ("full", "last", "none"):
        db, out = folder / f"{capture}.db", folder / capture
        with LocalRuntime(policy, db=db, capture=capture) as runtime:
            arguments = ["rollout", f"{folder}/agent.py:handler", f"{folder}/prompts.jsonl", "--out", str(out)]
            result = CliRunner().invoke(main, [*arguments, "--endpoint", runtime.endpoint])
        assert result.exit_code == 0, result.output
        made[capture] = (out, db, folder)
    return made


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("capture", ["full", "last"])
def test_commands_when_everything_was_kept_then_they_work(capture, recorded, tmp_path):
    out, db, folder = recorded[capture]
    replayed = invoke("replay", out, "--db", db)
    assert replayed.exit_code == 0, replayed.output
    exported = invoke("export", db, tmp_path / "recording.jsonl")
    assert exported.exit_code == 0, exported.output
    lines = [json.loads(line) for line in (tmp_path / "recording.jsonl").read_text().splitlines()]
    assert [(line["prompt"], len(line["turns"])) for line in lines] == [("go on", 3)] * 3
    rescored = invoke("rescore", out, "--reward", f"{folder}/agent.py:reward", "--db", db)
    assert rescored.exit_code == 0, rescored.output
    assert invoke("metrics", out).exit_code == 0


def test_commands_when_nothing_was_kept_then_metrics_work_and_the_others_name_the_option(recorded, tmp_path):
    out, db, folder = recorded["none"]
    assert invoke("metrics", out).exit_code == 0
    target = tmp_path / "recording.jsonl"
    for arguments in (
        ("replay", out, "--db", db),
        ("export", db, target),
        ("rescore", out, "--reward", f"{folder}/agent.py:reward", "--db", db),
    ):
        result = invoke(*arguments)
        assert result.exit_code == 2, result.output
        assert "--capture none" in result.output
    assert not target.exists()
    with pytest.raises(ConfigurationError, match="--capture full or --capture last"):
        write_recordings(read_trajectories(db), target)
