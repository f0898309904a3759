"""The whole loop: a real agent, real tool calls, the local runtime, and an update from what it recorded."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from aws_rft_sdk.cli import main
from aws_rft_sdk.cli._sparkline import sparkline
from aws_rft_sdk.datasets import unpack
from aws_rft_sdk.errors import ConfigurationError, PayloadError
from aws_rft_sdk.handler import rft_handler
from aws_rft_sdk.rewards import Rollout, evaluate, gsm8k
from aws_rft_sdk.rollout import run
from aws_rft_sdk.runtime import LocalRuntime
from aws_rft_sdk.training import arithmetic
from aws_rft_sdk.training.learning import CONTROLS, Course, learn, wilson
from aws_rft_sdk.training.softmax import Choice, SoftmaxPolicy, Table, read_choices, softmax, update

SHORT: dict[str, Any] = {"steps": 6, "prompts": 8, "group_size": 8, "held_out": 50, "learning_rate": 45.0}


def solved(word: str) -> Table:
    table = arithmetic.untrained()
    for state, (operation, _) in arithmetic._EVENTS.items():
        table[state][operation] = 50.0
    table["done"][word] = 50.0
    return table


@pytest.mark.parametrize("control", ["constant", "random", "shuffled_ids"])
def test_learn_when_the_control_must_fail_then_nothing_is_learnt(control: str) -> None:
    course = learn(control=control, **SHORT)
    assert abs(course.after - course.before) < 0.2
    assert not course.learned
    if control == "constant":
        assert course.table_after == course.table_before
        assert course.after == course.before
        assert all(step.dead_group_share == 1.0 for step in course.steps)


@pytest.mark.parametrize("rewards_differ", [False, True], ids=["equal rewards", "honest rewards"])
def test_learn_when_a_fifth_of_the_rollouts_crash_then_they_are_left_out_and_count_for_nothing(
    rewards_differ: bool,
) -> None:
    calls = itertools.count()

    @rft_handler(on_error="failed")
    async def handler(payload: dict[str, Any]) -> float | None:
        task = unpack(payload["prompt"])
        answer = await arithmetic.solve(str(task))
        if next(calls) % 5 == 0:
            raise RuntimeError("the tool server is gone")
        return evaluate(gsm8k, Rollout.of_answer(answer, task.ground_truth)).reward if rewards_differ else 1.0

    told: list[int] = []
    course = learn(handler=handler, tell=lambda step, rewarded: told.append(rewarded), **SHORT)

    size = SHORT["prompts"] * SHORT["group_size"]
    assert sum(told) == pytest.approx(0.8 * size * len(told), abs=1)
    if rewards_differ:
        assert course.after > course.before + 0.3
    else:  # were a crash a 0, its group would have unequal rewards, and the table would change
        assert course.table_after == course.table_before


def test_learn_when_all_rollouts_crash_then_nothing_is_learnt_and_the_steps_say_nothing() -> None:
    @rft_handler(on_error="failed")
    async def handler(payload: dict[str, Any]) -> float:
        await arithmetic.solve(str(unpack(payload["prompt"])))
        raise RuntimeError("the tool server is gone")

    course = learn(handler=handler, **{**SHORT, "steps": 1, "held_out": 5})

    assert course.table_after == course.table_before
    assert (course.steps[0].reward_mean, course.steps[0].dead_group_share) == (None, None)


def test_learn_when_repeated_with_the_seed_then_the_course_is_the_same(tmp_path: Path) -> None:
    short = {**SHORT, "steps": 2, "held_out": 5}
    first, second = (learn(tmp_path / name, control="lost_rewards", seed=3, **short) for name in "ab")
    assert (first.before, first.after) == (second.before, second.after)
    assert first.table_after == second.table_after
    assert learn(seed=4, **short).table_after != first.table_after


def test_learn_when_the_control_is_unknown_then_the_known_ones_are_named() -> None:
    with pytest.raises(ConfigurationError, match="Give one of constant, random, shuffled_ids, lost_rewards"):
        learn(control="chaos")


@pytest.mark.parametrize("with_tools", [True, False], ids=["calculator", "in-one-answer"])
def test_decide_when_the_table_knows_the_words_then_every_problem_is_solved(with_tools: bool) -> None:
    policy = SoftmaxPolicy(arithmetic.decide, solved("answer"))
    tasks = arithmetic.problems(20, Random(7))
    if with_tools:
        finished = run(
            arithmetic.handler, [arithmetic.prompt_cell(*task) for task in tasks], policy=policy, discard=True
        )
        assert [record.reward for record in finished.records] == [1.0] * 20
        assert {record.turns for record in finished.records} == {2, 3}
        return
    for question, answer in tasks:
        message, choices = policy.sample({"messages": [{"role": "user", "content": question}]}, Random(0))
        assert str(message["content"]).endswith(f"#### {answer}")
        assert len(choices) in (2, 3)


def test_problems_when_made_then_none_is_among_those_left_out() -> None:
    held_out = [question for question, _ in arithmetic.problems(200, Random(0))]
    others = arithmetic.problems(200, Random(0), without=held_out)
    assert len({*held_out, *(question for question, _ in others)}) == 400


def test_turn_when_recorded_then_its_decisions_have_the_log_probabilities_they_were_drawn_with() -> None:
    policy = SoftmaxPolicy(arithmetic.decide, arithmetic.untrained(), seed=1)
    with LocalRuntime(policy) as runtime:
        cell = arithmetic.prompt_cell(*arithmetic.problems(1, Random(0))[0])
        asyncio.run(arithmetic.handler(runtime.new_rollout(cell)))
        turns = runtime.trajectories()[0].turns
    assert turns
    for turn in turns:
        (choice,) = read_choices(turn.response)
        moves = policy.table[choice.state]
        assert math.exp(choice.logprob) == pytest.approx(softmax(list(moves.values()))[list(moves).index(choice.move)])


def test_read_choices_when_another_policy_answered_then_it_says_so() -> None:
    with LocalRuntime(lambda request: "#### 1") as runtime:
        asyncio.run(arithmetic.handler(runtime.new_rollout(arithmetic.prompt_cell("How many?", "1"))))
        turn = runtime.trajectories()[0].turns[0]
    with pytest.raises(PayloadError, match="holds no decisions"):
        read_choices(turn.response)


def test_update_when_a_move_was_good_then_it_becomes_likelier_and_the_sum_of_logits_stays() -> None:
    table: Table = {"s": {"a": 0.0, "b": 0.0}}
    figures = update(table, [([Choice("s", "a", math.log(0.5))], 1.0)], learning_rate=1.0)
    assert table == {"s": {"a": 0.5, "b": -0.5}}
    assert figures == pytest.approx({"grad_norm": math.sqrt(0.5), "clipped_share": 0.0})


def test_update_when_the_policy_has_moved_too_far_then_the_decision_is_left_out() -> None:
    table: Table = {"s": {"a": 2.0, "b": 0.0}}
    figures = update(table, [([Choice("s", "a", math.log(0.5))], 1.0)], learning_rate=1.0)
    assert table == {"s": {"a": 2.0, "b": 0.0}}
    assert figures["clipped_share"] == 1.0


@pytest.mark.parametrize(
    ("before", "after", "learned"),
    [(0.05, 0.9, True), (0.05, 0.15, False), (0.4, 0.5, False), (0.0, 0.2, True), (0.5, 0.2, False)],
)
def test_learned_when_asked_then_the_rise_is_large_and_no_chance(before: float, after: float, learned: bool) -> None:
    assert Course(before, after, 100, 0, (), {}, {}).learned is learned


def test_wilson_when_computed_then_it_is_the_published_interval() -> None:
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(0.0, 100) == pytest.approx((0.0, 0.0370), abs=1e-4)


def test_demo_when_run_then_other_commands_read_its_folders(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    result = CliRunner().invoke(main, ["demo", "--json", "--out", str(out)])
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert set(report) == {"runs", "seconds"}
    assert set(report["runs"]) == {"rewarded"}
    assert report["runs"]["rewarded"]["after"] > report["runs"]["rewarded"]["before"] + 0.3
    assert report["runs"]["rewarded"]["rollouts"] == 960
    metrics = CliRunner().invoke(main, ["metrics", str(out / "rewarded" / "train"), "--json"])
    assert metrics.exit_code == 0, metrics.stderr
    steps = [json.loads(line) for line in (out / "rewarded" / "steps.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == list(range(1, 11))
    (curve,) = ElementTree.parse(out / "curves.svg").iter("{http://www.w3.org/2000/svg}polyline")
    assert len(curve.attrib["points"].split()) == 10
    again = CliRunner().invoke(main, ["demo", "--out", str(out)])
    assert (again.exit_code, "give another folder with --out" in again.stderr) == (2, True)


def demo(tmp_path: Path, **options: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "ignore", "-m", "aws_rft_sdk", "demo", "--out", str(tmp_path / "demo")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, **options)


def test_demo_when_interrupted_then_it_says_where_the_records_are_and_nothing_else(tmp_path: Path) -> None:
    with demo(tmp_path, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        said = [process.stderr.readline().decode(), process.stderr.readline().decode()]
        process.send_signal(signal.SIGINT)
        out, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == b""
    lines = [*said, *rest.decode().splitlines()]
    assert [line for line in lines[1:-1] if not line.startswith("  step")] == []
    assert lines[-1] == f"stopped. What was recorded until now is in {tmp_path / 'demo'}"
    assert (tmp_path / "demo" / "rewarded" / "steps.jsonl").read_text().startswith('{"step": 1')


@pytest.mark.parametrize(("encoding", "bars"), [("utf-8", "▁▄█"), ("ascii", "_-#"), ("no-such", "_-#")])
def test_sparkline_when_the_terminal_lacks_bars_then_ascii_characters_are_drawn(encoding: str, bars: str) -> None:
    assert sparkline([0.0, 0.45, 1.0], encoding, low=0.0, high=1.0) == bars
    assert sparkline([3.0] * 50, encoding) == bars[0] * 40
    assert sparkline([], encoding) == ""


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="there are no pseudo terminals here")
def test_demo_when_in_a_narrow_ascii_terminal_then_a_view_is_shown_and_no_line_is_too_long(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    environment = {**os.environ, "COLUMNS": "60", "TERM": "xterm", "PYTHONIOENCODING": "ascii"}
    with demo(tmp_path, stderr=theirs, env=environment) as process:
        os.close(theirs)
        view = b""
        while b"step" not in view or b"rollouts/s" not in view:
            view += os.read(ours, 65536)
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(OSError):  # Linux says so at the end
            while more := os.read(ours, 65536):
                view += more
        assert process.wait(60) == 130
    os.close(ours)
    assert b"Traceback" not in view
    assert b"success" in view
    shown = [re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", line) for line in view.splitlines()[1:-1]]
    assert max(map(len, shown)) <= 60


def test_controls_when_listed_then_the_ones_of_the_command() -> None:
    assert CONTROLS == ("constant", "random", "shuffled_ids", "lost_rewards")
