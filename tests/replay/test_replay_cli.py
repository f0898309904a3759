"""`aws-rft replay` on rollouts of the calculator example, after changes of its code."""

import json
import shutil
from collections import Counter

import pytest

from aws_rft_sdk.runs import read_records
from tests.replay.conftest import EXAMPLES, contents, run

HANDLER = EXAMPLES / "gsm8k_calculator" / "agent.py:handler"


def replay_json(folder, *options):
    result = run("replay", folder, "--json", *options)
    return result.exit_code, json.loads(result.stdout)


def change(example, file, old, new):
    text = (example / file).read_text()
    assert old in text
    (example / file).write_text(text.replace(old, new))


def test_replay_when_nothing_changed_then_all_are_the_same_and_nothing_is_written(calculations):
    before = contents(calculations)

    result = run("replay", calculations)

    assert result.exit_code == 0, result.output
    assert "6 rollouts replayed: 6 same" in result.output
    assert contents(calculations) == before


CHANGES = [
    pytest.param(
        "agent.py", "step by step", "bit by bit", "diverged", {0}, "the system prompt", "messages[0].content",
        id="system-prompt",
    ),
    pytest.param(
        "agent.py", "Calculate an arithmetic", "Work out an arithmetic", "diverged", {0}, "the tool calculator",
        "tools[calculator].function.description", id="tool-description",
    ),
    pytest.param(
        "agent.py", "for example", "such as", "diverged", {0}, "the tool calculator",
        "tools[calculator].function.parameters.properties.expression.description", id="tool-schema",
    ),
    pytest.param(
        "agent.py", "tools=[calculator]", "tools=[]", "diverged", {0}, "the tool calculator", "tools[calculator]",
        id="tool-gone",
    ),
    pytest.param(
        "agent.py", "    try:\n", "    return 'seven'\n    try:\n", "diverged", {1},
        "the result of calculator(", "messages[3].content", id="tool-result",
    ),
    pytest.param(
        "agent.py", "invoke_async(task.question)", "invoke_async(task.question + ' Now.')", "diverged", {0},
        "the user's message", "messages[1].content[0].text", id="user-message",
    ),
    pytest.param(
        "agent.py", 'model_id="default"', 'model_id="default", params={"seed": 1}', "diverged", {0},
        "the setting seed", "seed", id="setting",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "status", "turns", "what", "where"), CHANGES)
def test_replay_when_the_agent_changed_then_the_first_turn_and_the_field_are_named(
    calculations, example, file, old, new, status, turns, what, where
):
    change(example, file, old, new)

    code, report = replay_json(calculations, "--handler", example / "agent.py:handler")

    assert code == 1
    assert report["counts"] == {status: 6}
    assert {rollout["turn"] for rollout in report["rollouts"]} == turns
    assert {rollout["steady"] for rollout in report["rollouts"]} == {True}
    for rollout in report["rollouts"]:
        first = rollout["differences"][0]
        assert first["what"].startswith(what)
        assert first["where"] == where


def test_replay_when_a_tool_differs_in_a_late_turn_then_only_those_rollouts_diverge_there(calculations, example):
    change(example, "gsm8k_arithmetic.py", "15g", "2g")

    code, report = replay_json(calculations, "--handler", example / "agent.py:handler")

    assert code == 1
    diverged = [rollout for rollout in report["rollouts"] if rollout["status"] == "diverged"]
    assert max(rollout["turn"] for rollout in diverged) > 1
    for rollout in diverged:
        (difference,) = rollout["differences"]
        assert difference["where"] == f"messages[{2 * rollout['turn'] + 1}].content"
        assert float(difference["recorded"]) == pytest.approx(float(difference["now"]), rel=0.1)
    assert sum(report["counts"].values()) == 6


def test_replay_when_the_reward_changed_then_both_are_told(calculations, example):
    change(example, "gsm8k_task.py", "return float(final_number(text) == expected)", "return 0.25")

    code, report = replay_json(calculations, "--handler", example / "agent.py:handler")

    assert code == 1
    assert report["counts"] == {"reward changed": 6}
    recorded = {record.trajectory_id: [record.reward] for record in read_records(calculations)}
    assert {rollout["trajectory_id"]: rollout["recorded_rewards"] for rollout in report["rollouts"]} == recorded
    assert {tuple(rollout["rewards"]) for rollout in report["rollouts"]} == {(0.25,)}
    assert report["changed_sources"] == ["gsm8k_task.py"]


def test_replay_when_the_agent_goes_on_then_the_turn_without_an_answer_is_named(calculations, example):
    change(example, "agent.py", "    return {", "    await agent.invoke_async('Sure?')\n    return {")

    code, report = replay_json(calculations, "--handler", example / "agent.py:handler")

    assert code == 1
    assert report["counts"] == {"went on": 6}
    assert all(rollout["turn"] == rollout["recorded_turns"] for rollout in report["rollouts"])
    assert all("BadRequestError" in rollout["error"] for rollout in report["rollouts"])


def test_replay_when_the_agent_stops_early_then_the_first_turn_not_asked_for_is_named(calculations, example):
    change(
        example,
        "agent.py",
        "await agent.invoke_async(task.question)",
        "await agent.invoke_async(task.question, limits={'turns': 1})",
    )

    code, report = replay_json(calculations, "--handler", example / "agent.py:handler")

    assert code == 1
    assert {(rollout["status"], rollout["turn"]) for rollout in report["rollouts"]} == {("stopped early", 1)}


@pytest.mark.parametrize(
    ("place", "turn"),
    [
        pytest.param("    task = Task", 0, id="before-the-first-turn"),
        pytest.param("    return {", None, id="at-the-end"),
    ],
)
def test_replay_when_the_handler_raises_then_the_error_is_told(calculations, example, place, turn):
    change(example, "agent.py", place, f"    raise KeyError('oh')\n{place}")

    code, report = replay_json(calculations, "--handler", example / "agent.py:handler")

    assert code == 1
    assert {(rollout["status"], rollout["turn"]) for rollout in report["rollouts"]} == {("error changed", turn)}
    assert {rollout["error"] for rollout in report["rollouts"]} == {"KeyError: 'oh'"}


def test_replay_when_many_differ_in_one_place_then_one_of_them_is_shown(calculations, example):
    change(example, "agent.py", "step by step", "bit by bit")

    output = run("replay", calculations, example / "agent.py:handler").output

    assert "6 rollouts differ in the same place" in output
    assert output.count("the system prompt differs") == 1
    assert "step by step" in output
    assert "bit by bit" in output


def test_replay_when_concurrency_differs_then_the_report_is_the_same(calculations):
    reports = [replay_json(calculations, "--concurrency", number)[1] for number in (1, 5, 64)]

    assert reports[0] == reports[1] == reports[2]
    places = [(rollout["prompt_index"], rollout["sample_index"]) for rollout in reports[0]["rollouts"]]
    assert places == [(prompt, sample) for prompt in range(3) for sample in range(2)]


def test_replay_when_some_are_chosen_then_only_they_run(calculations):
    ids = [record.trajectory_id for record in read_records(calculations)]

    _, some = replay_json(calculations, "--only", ids[3], "--only", ids[5])
    _, first = replay_json(calculations, "--limit", "3")

    assert Counter(rollout["trajectory_id"] for rollout in some["rollouts"]) == Counter([ids[3], ids[5]])
    assert [rollout["prompt_index"] for rollout in first["rollouts"]] == [0, 0, 1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        pytest.param(["--only", "nobody"], "has no rollout 'nobody'", id="unknown-id"),
        pytest.param(["--handler", "nowhere.py:handler"], "there is no file", id="no-file"),
        pytest.param(["a.py:b", "--handler", "a.py:b"], "both name a handler", id="handler-twice"),
        pytest.param(["--concurrency", "0"], "concurrency", id="no-concurrency"),
    ],
)
def test_replay_when_used_wrongly_then_exit_status_is_two(calculations, options, says):
    result = run("replay", calculations, *options)

    assert result.exit_code == 2
    assert says in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        pytest.param("run.json", "--handler", id="no-manifest"),
        pytest.param("trajectories.db", "--db", id="no-trajectories"),
        pytest.param("rollouts.jsonl", "rollouts.jsonl", id="no-records"),
    ],
)
def test_replay_when_the_folder_lacks_a_file_then_usage_error_says_what_to_do(calculations, tmp_path, missing, says):
    folder = shutil.copytree(calculations, tmp_path / "out")
    (folder / missing).unlink()

    result = run("replay", folder)

    assert result.exit_code == 2
    assert says in result.output


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        pytest.param("nowhere/agent.py:handler", "there is no nowhere/agent.py here", id="file-gone"),
        pytest.param("http://127.0.0.1:8080", "deployed agent", id="worker"),
        pytest.param("arn:aws:bedrock-agentcore:us-west-2:1:runtime/a", "deployed agent", id="agentcore"),
    ],
)
def test_replay_when_the_handler_of_the_run_is_not_here_then_usage_error_asks_for_it(
    calculations, tmp_path, handler, says
):
    folder = shutil.copytree(calculations, tmp_path / "out")
    manifest = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**manifest, "handler": handler}))

    result = run("replay", folder)

    assert result.exit_code == 2
    text = " ".join(result.output.split())
    assert says in text
    assert "--handler" in text


def test_replay_when_the_database_is_elsewhere_then_it_is_named(calculations, tmp_path):
    folder = shutil.copytree(calculations, tmp_path / "out")
    shutil.move(folder / "trajectories.db", tmp_path / "other.db")

    result = run("replay", folder, "--handler", HANDLER, "--db", tmp_path / "other.db")

    assert result.exit_code == 0, result.output
