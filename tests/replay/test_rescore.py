"""Another reward for saved rollouts: from the math example, and small ones of any shape."""

import dataclasses
import json
import math
import sqlite3
import threading
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strands import Agent

from aws_rft_sdk import RolloutResult, rft_handler
from aws_rft_sdk.datasets import pack
from aws_rft_sdk.errors import ConfigurationError, DatasetError
from aws_rft_sdk.rewards import Component, RewardResult, WeightedSum
from aws_rft_sdk.rollout import run as run_dataset
from aws_rft_sdk.runs import (
    RescoreStatus,
    RolloutStatus,
    cell_truth,
    column_truth,
    read_records,
    rescore,
    rescore_report,
)
from aws_rft_sdk.runs.rescore_report import spearman
from aws_rft_sdk.runs.rescoring import configured, write_new_records
from tests.replay.conftest import EXAMPLES, contents, run
from tests.replay.recording import make_handler, model, record, write_records

REWARDS = """
from dataclasses import dataclass

from aws_rft_sdk.rewards import Component, ExactNumber, RewardResult

exact = ExactNumber()
number = 3

def constant(rollout):
    return 0.5

def raises_on_wrong(rollout):
    if not exact(rollout):
        raise LookupError("nothing to see")
    return 1.0

def only_right(rollout):
    return exact(rollout) or None

def length(rollout, *, scale, offset=0.0):
    return len(rollout.answer) * scale + offset

@dataclass(frozen=True)
class Rank:
    # Share of the group that is shorter. An answer that is named breaks the group.

    broken: str = ""

    def score_group(self, rollouts):
        if self.broken in [rollout.answer for rollout in rollouts]:
            raise LookupError(self.broken)
        lengths = [len(rollout.answer) for rollout in rollouts]
        return [sum(other < own for other in lengths) / len(lengths) for own in lengths]

rank = Rank("no such answer")

class Scaled:
    def __init__(self, scale: float) -> None:
        if scale < 0:
            raise ValueError("scale is negative")
        self.scale = scale

    def __call__(self, rollout):
        value = exact(rollout)
        parts = (Component("exact", value), Component("length", len(rollout.answer), False))
        return RewardResult(value * self.scale, parts)
"""


@pytest.fixture
def rewards(tmp_path):
    path = tmp_path / "other_rewards.py"
    path.write_text(REWARDS)
    return path


def rescore_json(folder, reward, *options):
    result = run("rescore", folder, "--reward", reward, "--json", *options)
    return result.exit_code, json.loads(result.stdout)


# --- the math example ----------------------------------------------------------------------------------------------


def test_rescore_when_the_reward_is_the_same_then_so_are_all_figures(word_problems):
    folder = word_problems / "out"
    before = contents(folder)

    code, report = rescore_json(folder, EXAMPLES / "math_rlvr" / "math_reward.py:reward")

    assert code == 0
    assert report["old"] == report["new"]
    assert report["old"]["mean"] == pytest.approx(fmean(record.reward for record in read_records(folder)))
    assert (report["compared"], report["changed"], report["same_success_share"]) == (15, 0, 1.0)
    assert report["spearman"] == pytest.approx(1.0)
    assert [rollout["old"] for rollout in report["rollouts"]] == [rollout["new"] for rollout in report["rollouts"]]
    assert {part["name"]: part["counts"] for part in report["components"]}["format"] is True
    assert contents(folder) == before


def test_rescore_when_the_reward_is_another_then_every_figure_follows_from_the_rollouts(word_problems, rewards):
    code, report = rescore_json(word_problems / "out", f"{rewards}:Scaled", "--config", '{"scale": 2}')

    assert code == 0
    rows = report["rollouts"]
    assert {row["new"] for row in rows} == {0.0, 2.0}
    assert report["new"]["mean"] == pytest.approx(fmean(row["new"] for row in rows))
    assert report["new"]["success_share"] == pytest.approx(fmean(row["new"] >= 1 for row in rows))
    assert report["up"] == sum(row["new"] > row["old"] for row in rows) > 0
    assert report["down"] == sum(row["new"] < row["old"] for row in rows)
    assert report["same_success_share"] == pytest.approx(fmean((row["old"] >= 1) == (row["new"] >= 1) for row in rows))
    means = {part["name"]: part["mean"] for part in report["components"]}
    assert means["exact"] == pytest.approx(fmean(row["components"]["exact"] for row in rows))
    assert {part["name"]: part["counts"] for part in report["components"]} == {"exact": True, "length": False}


def test_rescore_when_groups_become_equal_or_different_then_the_prompts_are_named(word_problems, rewards):
    _, flat = rescore_json(word_problems / "out", f"{rewards}:constant")

    assert flat["groups_now_equal"] == [0, 1, 2]
    assert (flat["old"]["zero_variance_groups"], flat["new"]["zero_variance_groups"]) == (0, 3)
    assert flat["spearman"] is None


def test_rescore_when_some_cannot_be_judged_then_they_are_listed_and_are_not_zero(word_problems, rewards, tmp_path):
    out = tmp_path / "new.jsonl"
    code, report = rescore_json(word_problems / "out", f"{rewards}:only_right", "--out", out)

    assert code == 0
    unjudged = [row for row in report["rollouts"] if row["status"] == "cannot be judged"]
    assert report["counts"] == {"scored": 15 - len(unjudged), "cannot be judged": len(unjudged)}
    assert {row["new"] for row in unjudged} == {None}
    assert (report["new"]["mean"], report["new"]["rewarded"]) == (1.0, 15 - len(unjudged))
    new = {row["trajectory_id"]: row["reward"] for row in map(json.loads, out.read_text().splitlines())}
    assert new == {row["trajectory_id"]: row["new"] for row in report["rollouts"]}
    text = run("rescore", word_problems / "out", "--reward", f"{rewards}:only_right", "--show", "2").output
    assert text.count("cannot be judged: ") == 3
    assert f"and {len(unjudged) - 2} more" in text


def test_rescore_when_the_reward_raises_then_the_other_rollouts_are_scored(word_problems, rewards):
    code, report = rescore_json(word_problems / "out", f"{rewards}:raises_on_wrong")

    assert code == 1
    assert set(report["counts"]) == {"scored", "raised"}
    assert {row["note"] for row in report["rollouts"]} == {None, "LookupError: nothing to see"}


def test_rescore_when_shown_then_the_biggest_changes_come_first(word_problems, rewards):
    options = ("--config", '{"scale": 0.1}')
    report = rescore_report(
        rescore(word_problems / "out", configured(lambda r, scale: len(r.answer) * scale, {"scale": 1}))
    )

    changes = report.biggest_changes(4)
    sizes = [abs(rollout.new - rollout.old) for rollout in changes]
    assert sizes == sorted((abs(rollout.new - rollout.old) for rollout in report.rollouts), reverse=True)[:4]
    text = run("rescore", word_problems / "out", "--reward", f"{rewards}:length", *options, "--show", "4").output
    assert changes[0].record.trajectory_id in text
    assert "15 of 15 rewards changed" in text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        pytest.param(["--reward", "{}:number"], "not a reward", id="no-reward"),
        pytest.param(["--reward", "{}:nothing"], "has no 'nothing'", id="unknown"),
        pytest.param(["--reward", "{}:length"], "scale", id="config-missing"),
        pytest.param(["--reward", "{}:length", "--config", '{"scalar": 1}'], "scale", id="config-unknown"),
        pytest.param(["--reward", "{}:exact", "--config", '{"scale": 1}'], "none besides the rollout", id="no-config"),
        pytest.param(["--reward", "{}:Scaled", "--config", '{"scale": -1}'], "negative", id="config-refused"),
        pytest.param(["--reward", "{}:exact", "--config", "{"], "no JSON", id="config-no-json"),
        pytest.param(["--reward", "{}:exact", "--config", "[]"], "must be a JSON object", id="config-no-object"),
        pytest.param(["--reward", "{}:exact", "--dataset", "{}"], "--ground-truth", id="dataset-alone"),
        pytest.param(["--reward", "{}:exact", "--out", "{}"], "exists already", id="out-exists"),
        pytest.param(["--reward", "{}:exact", "--ground-truth", "nought"], "no field 'nought'", id="no-field"),
    ],
)
def test_rescore_when_used_wrongly_then_exit_status_is_two(word_problems, rewards, options, says):
    result = run("rescore", word_problems / "out", *(option.replace("{}", str(rewards)) for option in options))

    assert result.exit_code == 2, result.output
    assert says in " ".join(result.output.split())


# --- groups ----------------------------------------------------------------------------------------------------------


def numbered(answers):
    """Answer with the next of some texts, whatever is asked."""
    texts = iter(answers)
    return lambda request: next(texts)


@pytest.mark.parametrize("options", [(), ("--concurrency", 3)])
def test_rescore_when_the_reward_compares_rollouts_then_those_of_one_prompt(tmp_path, rewards, options):
    folder = tmp_path / "out"
    record(folder, make_handler(), "ab", answers=numbered(["xx", "x", "xxx", "yyyyy", "yy", "y"]), runs=3)

    code, report = rescore_json(folder, f"{rewards}:rank", "--out", tmp_path / "new", *options)

    third = pytest.approx(1 / 3)
    expected = [third, 0, pytest.approx(2 / 3), pytest.approx(2 / 3), third, 0]
    assert (code, [row["new"] for row in report["rollouts"]]) == (0, expected)
    metrics = json.loads(run("metrics", tmp_path / "new", "--json").stdout)["metrics"]
    assert metrics["eval/reward/mean"] == third
    code, report = rescore_json(folder, f"{rewards}:rank", "--limit", 5, *options)
    assert [row["new"] for row in report["rollouts"]] == expected[:5]  # the rest of the group is compared, too
    code, report = rescore_json(folder, f"{rewards}:Rank", "--config", '{"broken": "yy"}', *options)
    assert code == 1
    assert [row["status"] for row in report["rollouts"]] == ["scored"] * 3 + ["raised"] * 3
    assert report["rollouts"][5]["note"] == "LookupError: yy"


def test_rescore_when_rollouts_of_a_group_cannot_be_scored_then_the_others_are_compared(tmp_path):
    records = record(tmp_path, make_handler(), "a", answers=numbered(["xx", "x", "xxx"]), runs=3)
    write_records(tmp_path, [records[0], dataclasses.replace(records[1], status=RolloutStatus.FAILED), records[2]])
    groups = []

    class Rank:
        def score_group(self, rollouts):
            groups.append([rollout.answer for rollout in rollouts])
            return [None, 1.0]

    rollouts = list(rescore(tmp_path, WeightedSum({"rank": Rank(), "one": one})))

    assert groups == [["xx", "xxx"]]
    assert [rollout.status.value for rollout in rollouts] == ["cannot be judged", "failed rollout", "scored"]
    assert rollouts[2].new == 2.0


def test_rescore_when_the_handler_gave_the_state_then_the_reward_reads_it_and_the_service_never_did(tmp_path):
    state = {"private_orders": [{"id": 7, "status": "refunded"}]}

    @rft_handler
    async def handler(payload):
        await Agent(model=model(), callback_handler=None).invoke_async(payload["prompt"])
        return RolloutResult(0.5, state=state)

    run_dataset(handler, ["a"], out=tmp_path / "out", policy=lambda request: "done")

    (rollout,) = rescore(tmp_path / "out", lambda rollout: rollout.state["private_orders"][0]["id"])
    assert (rollout.old, rollout.new, rollout.record.state) == (0.5, 7.0, state)
    told = b"".join(path.read_bytes() for path in (tmp_path / "out").glob("trajectories.db*"))
    assert b"private_orders" not in told


# --- ground truth --------------------------------------------------------------------------------------------------


def truth_length(rollout):
    return None if rollout.ground_truth is None else float(len(str(rollout.ground_truth)))


def test_rescore_when_the_truth_is_a_column_then_it_is_matched_by_the_prompt(word_problems, rewards):
    dataset = word_problems / "asked.jsonl"
    reward = f"{rewards}:exact"

    _, by_column = rescore_json(word_problems / "out", reward, "--dataset", dataset, "--ground-truth", "number")
    _, by_cell = rescore_json(word_problems / "out", reward)

    assert by_column == by_cell


@pytest.mark.parametrize(
    ("rows", "column", "says"),
    [
        pytest.param([{"prompt": "a", "t": 1}, {"prompt": "c", "t": 2}], "t", "is not the one", id="other-prompt"),
        pytest.param([{"prompt": "a", "t": 1}], "t", "has 1", id="too-few"),
        pytest.param([{"prompt": "a", "t": 1}, {"prompt": "b"}], "t", "line 2: the row has no column", id="no-cell"),
        pytest.param([{"prompt": "a", "t": 1}], "u", "has no column 'u'", id="no-column"),
    ],
)
def test_rescore_when_the_dataset_is_another_then_it_is_refused(tmp_path, rows, column, says):
    record(tmp_path / "out", make_handler(), "ab")
    dataset = tmp_path / "data.jsonl"
    dataset.write_text("".join(json.dumps(row) + "\n" for row in rows))

    with pytest.raises(DatasetError, match=says):
        list(rescore(tmp_path / "out", truth_length, truth=column_truth(dataset, column)))


@pytest.mark.parametrize(
    ("cell", "finder", "truth", "metadata"),
    [
        pytest.param("plain", cell_truth(), None, {}, id="no-json"),
        pytest.param("[1]", cell_truth(), None, {}, id="no-object"),
        pytest.param('{"question": "q", "answer": "7"}', cell_truth(), "7", {"question": "q"}, id="answer"),
        pytest.param('{"question": "q", "ground_truth": 0}', cell_truth(), 0, {"question": "q"}, id="ground-truth"),
        pytest.param(
            '{"prompt": "q", "reward_spec": {"ground_truth": 5}}',
            cell_truth(),
            5,
            {"prompt": "q", "reward_spec": {"ground_truth": 5}},
            id="reward-spec",
        ),
        pytest.param('{"a": {"b": [1]}, "c": 2}', cell_truth("a.b"), [1], {"c": 2}, id="dotted"),
        pytest.param('{"answer": null}', cell_truth("answer"), None, {}, id="null"),
        pytest.param(
            pack(question="q", ground_truth=4, unit="m"), cell_truth(), 4, {"question": "q", "unit": "m"}, id="packed"
        ),
        pytest.param('{"answer": 4, "visible": 1}', cell_truth(), 4, {"visible": 1}, id="visible-of-another-maker"),
    ],
)
def test_rescore_when_the_truth_is_in_the_cell_then_the_reward_gets_it_and_the_rest(
    tmp_path, cell, finder, truth, metadata
):
    record(tmp_path, make_handler(), [cell], answers=lambda request: "hm")
    seen = []

    list(rescore(tmp_path, lambda rollout: seen.append(rollout) or 1.0, truth=finder))

    assert seen[0].ground_truth == truth
    assert seen[0].metadata == metadata
    assert seen[0].prompt == cell
    assert seen[0].answer == "hm"


# --- rollouts of every kind ------------------------------------------------------------------------------------------


def one(rollout):
    return 1.0


def failing(answer):
    raise LookupError(answer)


def test_rescore_when_a_handler_failed_then_its_rollout_keeps_its_reward_unless_told_otherwise(tmp_path):
    record(tmp_path, make_handler(score=failing), ["a"])

    (kept,) = rescore(tmp_path, one)
    (scored,) = rescore(tmp_path, one, include_failed=True)

    assert (kept.status, kept.old, kept.new) == (RescoreStatus.FAILED, 0.0, 0.0)
    assert kept.new_record == kept.record
    assert (scored.status, scored.old, scored.new) == (RescoreStatus.SCORED, 0.0, 1.0)


def test_rescore_when_a_rollout_was_never_judged_then_it_can_be_now(tmp_path):
    records = record(tmp_path, make_handler(), "ab")
    write_records(
        tmp_path,
        [dataclasses.replace(records[0], reward=None, status=RolloutStatus.UNREPORTED), records[1]],
    )

    report = rescore_report(rescore(tmp_path, one))

    assert (report.old.rewarded, report.new.rewarded, report.compared) == (1, 2, 1)


def test_rescore_when_conversations_are_missing_then_they_are_listed(tmp_path):
    records = record(tmp_path, make_handler(), "abc")
    with sqlite3.connect(tmp_path / "trajectories.db") as connection:
        connection.execute("DELETE FROM trajectories WHERE trajectory_id = ?", (records[0].trajectory_id,))
        connection.execute("DELETE FROM turns WHERE key / (1 << 24) = 1")
        connection.execute("UPDATE turns SET request = x'7b' WHERE key / (1 << 24) = 2")
    connection.close()

    report = rescore_report(rescore(tmp_path, one))

    assert report.counts == {"missing": 3}
    notes = [rollout.note for rollout in report.rollouts]
    assert "no conversation" in notes[0]
    assert "no turns" in notes[1]
    assert "cannot be read" in notes[2]


@pytest.mark.parametrize("concurrency", [1, 2])
def test_rescore_when_the_reward_exits_then_the_other_rollouts_are_scored(tmp_path, concurrency):
    record(tmp_path, make_handler(), "ab")

    def runs_what_was_answered(rollout):
        if rollout.prompt == "a":
            raise SystemExit(0)
        return 1.0

    left, right = rescore(tmp_path, runs_what_was_answered, concurrency=concurrency)

    assert (left.status, left.note, right.new) == (RescoreStatus.RAISED, "SystemExit: 0", 1.0)


@pytest.mark.parametrize(("count", "status"), [(1, "scored"), (2, "scored"), (3, "raised"), (7, "raised")])
def test_rescore_when_rewards_of_turns_are_of_another_number_than_the_turns_then_that_is_an_error(
    tmp_path, count, status
):
    """A rollout that reported them would be refused."""
    record(tmp_path, make_handler(), ["a"])

    (rollout,) = rescore(tmp_path, lambda rollout: RewardResult(None, turns_rewards=(1.0,) * count))

    assert rollout.status.value == status
    assert (rollout.note is None) or f"{count} rewards for 2 turns" in rollout.note


def test_rescore_when_names_look_like_markup_then_they_are_shown_as_they_are(tmp_path, rewards):
    record(tmp_path / "out", make_handler(), ["a"])
    rewards.write_text(
        "from aws_rft_sdk.rewards import Component, RewardResult\n"
        "def odd(rollout):\n    return RewardResult(0.5, (Component('[/red] a[b]', 1.0),))\n"
    )

    result = run("rescore", tmp_path / "out", "--reward", f"{rewards}:odd")

    assert result.exit_code == 0
    assert "[/red] a[b]" in result.output


@pytest.mark.parametrize("value", [True, math.nan, "1", [1.0]])
def test_rescore_when_the_reward_gives_what_is_none_then_that_is_an_error_of_the_row(tmp_path, value):
    record(tmp_path, make_handler(), ["a"])

    (rollout,) = rescore(tmp_path, lambda rollout: value)

    assert (rollout.status, rollout.new) == (RescoreStatus.RAISED, None)
    assert rollout.note.startswith("RewardError")


def test_rescore_when_the_reward_is_of_turns_then_their_sum_is_compared(tmp_path):
    record(tmp_path, make_handler(), ["a"])

    def per_turn(rollout):
        parts = (Component("style", 0.25, counts=False),)
        return RewardResult(None, parts, turns_rewards=tuple(0.5 + index for index, _ in enumerate(rollout.turns)))

    (rollout,) = rescore(tmp_path, per_turn)

    assert (rollout.status, rollout.new) == (RescoreStatus.SCORED, 2.0)
    assert rollout.new_record.rewards == (0.5, 1.5)
    assert rollout.new_record.metrics == {"style": 0.25}


def test_rescore_when_new_records_are_written_then_they_are_read_as_records_and_nothing_is_overwritten(tmp_path):
    record(tmp_path / "out", make_handler(), "ab")
    (tmp_path / "new").mkdir()
    target = tmp_path / "new" / "rollouts.jsonl"

    rollouts = list(rescore(tmp_path / "out", one))
    assert write_new_records(rollouts, target) == 2

    assert [item.reward for item in read_records(tmp_path / "new")] == [1.0, 1.0]
    with pytest.raises(ConfigurationError, match="exists already"):
        write_new_records(rollouts, target)
    with pytest.raises(ConfigurationError, match="exists already"):
        write_new_records(rollouts, tmp_path / "out" / "rollouts.jsonl")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        write_new_records(rollouts, tmp_path / "nowhere" / "new.jsonl")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["rollouts.jsonl"]


def test_rescore_when_told_a_folder_then_it_is_measured_and_compared_like_the_run(word_problems, rewards, tmp_path):
    folder, new = word_problems / "out", tmp_path / "new" / "strict"
    before = contents(folder)

    _, report = rescore_json(folder, f"{rewards}:constant", "--out", new, "--success-threshold", "0.5")

    metrics = json.loads(run("metrics", new, "--json").stdout)["metrics"]
    assert metrics["eval/reward/mean"] == report["new"]["mean"] == 0.5
    assert (metrics["eval/reward/success_threshold"], metrics["eval/reward/pass_at_1"]) == (0.5, 1.0)
    compared = run("compare", folder, new, "--success-threshold", "0.5")
    assert compared.exit_code == 0, compared.output
    assert "taken for true" not in compared.output  # both say of which dataset they are
    assert json.loads(run("compare", new, new, "--json").stdout)["prompts"] == 3
    assert contents(folder) == before
    again = run("rescore", folder, "--reward", f"{rewards}:constant", "--out", new)
    assert (again.exit_code, "exists already" in again.output) == (2, True)
    below_a_file = run("rescore", folder, "--reward", f"{rewards}:constant", "--out", rewards / "new")
    assert (below_a_file.exit_code, "cannot be written" in below_a_file.output) == (2, True)


def test_rescore_when_a_run_was_rescored_then_it_is_not_resumed_with_the_reward_of_its_handler(
    word_problems, rewards, tmp_path
):
    new = tmp_path / "new"
    run("rescore", word_problems / "out", "--reward", f"{rewards}:constant", "--out", new)

    handler = f"{EXAMPLES}/math_rlvr/agent.py:handler"
    result = run("rollout", handler, word_problems / "asked.jsonl", "--group-size", 5, "--resume", new)

    assert result.exit_code == 2
    assert "--reward was" in " ".join(result.output.split())


def test_rescore_when_writing_breaks_off_then_no_file_stays(tmp_path):
    record(tmp_path / "out", make_handler(), "ab")

    def broken():
        yield next(rescore(tmp_path / "out", one))
        raise KeyboardInterrupt

    (tmp_path / "new").mkdir()
    with pytest.raises(KeyboardInterrupt):
        write_new_records(broken(), tmp_path / "new" / "a.jsonl")
    assert list((tmp_path / "new").iterdir()) == []


def test_rescore_when_many_are_at_work_then_the_order_stays(tmp_path):
    record(tmp_path, make_handler(), "abcdefgh")
    barrier = threading.Barrier(4, timeout=30)

    def meets(rollout):
        barrier.wait()
        return float(ord(rollout.prompt))

    rollouts = list(rescore(tmp_path, meets, concurrency=4))

    assert [rollout.new for rollout in rollouts] == [float(ord(prompt)) for prompt in "abcdefgh"]
    with pytest.raises(ConfigurationError, match="concurrency"):
        next(rescore(tmp_path, one, concurrency=0))


def test_rescore_when_consumed_one_by_one_then_later_rollouts_are_not_read_yet(tmp_path):
    record(tmp_path, make_handler(), "abcd")
    scored = []
    rollouts = rescore(tmp_path, lambda rollout: scored.append(rollout.prompt) or 1.0)

    next(rollouts)

    assert scored == ["a"]
    rollouts.close()


# --- figures ---------------------------------------------------------------------------------------------------------

numbers = st.lists(st.integers(-5, 5).map(float), min_size=2, max_size=30)


@given(numbers)
def test_spearman_when_one_series_rises_with_the_other_then_it_is_one(values):
    expected = None if len(set(values)) == 1 else pytest.approx(1.0)

    assert spearman(values, [3 * value + 1 for value in values]) == expected
    assert spearman(values, [-value for value in values]) == (None if expected is None else pytest.approx(-1.0))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        pytest.param([], [], None, id="nothing"),
        pytest.param([1.0], [2.0], None, id="one"),
        pytest.param([1, 2, 3, 4, 5], [5, 6, 7, 8, 7], 0.8207826816681233, id="textbook-with-a-tie"),
        pytest.param([1, 1, 2, 2], [1, 2, 1, 2], 0.0, id="unrelated"),
    ],
)
def test_spearman_when_ranks_are_known_then_it_is_the_published_value(one, other, expected):
    assert spearman(one, other) == (None if expected is None else pytest.approx(expected))
