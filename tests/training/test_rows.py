"""Rows against the law that defines them, for any tree of turns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aws_rft_sdk.errors import PayloadError
from aws_rft_sdk.training.rows import rows_of
from aws_rft_sdk.types import Trajectory, TrajectoryStatus, Turn

TOKENS = st.lists(st.integers(0, 2), max_size=3).map(tuple)
"""Few different tokens, so that conversations are often equal by chance."""


def turn(index, prompt, sampled, logprobs=None):
    if logprobs is None:
        logprobs = tuple(-(index + place / 8) for place in range(1, len(sampled) + 1))
    # An empty list of log-probabilities is recorded as none.
    return Turn(index, None, None, None, 0.0, 0.0, None, sampled, logprobs or None, prompt)


def trajectory(*turns):
    return Trajectory("t-1", "job", TrajectoryStatus.READY, turns=turns)


@st.composite
def trees(draw):
    """Turns that continue any earlier turn, repeat its prompt, change its history, or begin a conversation."""
    turns = []
    for index in range(draw(st.integers(0, 7))):
        kind = draw(st.sampled_from(["continue", "repeat", "change", "cut", "begin"])) if turns else "begin"
        before = draw(st.sampled_from(turns)) if turns else None
        history = () if before is None else before.prompt_token_ids + before.token_ids
        place = draw(st.integers(0, max(len(history) - 1, 0)))
        new = draw(TOKENS)
        prompt = {
            "continue": history + new,
            "repeat": () if before is None else before.prompt_token_ids,
            "change": (*history[:place], 7, *history[place + 1 :], *new),
            "cut": history[:place],
            "begin": new,
        }[kind]
        turns.append(turn(index, prompt, draw(TOKENS)))
    return trajectory(*turns)


@given(trees())
def test_rows_when_turns_form_any_tree_then_each_sampled_token_is_in_one_row_once(tree) -> None:
    rows = rows_of(tree)
    found = {}
    for row in rows:
        assert len(row.completion_ids) == len(row.logprobs) == len(row.mask) == len(row.turns)
        assert row.mask[0] == 1
        assert all(logprob == 0.0 for logprob, is_sampled in zip(row.logprobs, row.mask, strict=True) if not is_sampled)
        assert list(row.turns) == sorted(row.turns)
        for columns in zip(row.turns, row.completion_ids, row.logprobs, row.mask, strict=True):
            if columns[3]:
                found.setdefault(columns[0], []).append(columns[1:3])
    sampling = [turn for turn in tree.turns if turn.token_ids]
    assert found == {t.index: list(zip(t.token_ids, t.logprobs, strict=True)) for t in sampling}
    for t in sampling:
        (row,) = [row for row in rows if t.index in row.turns]
        whole = t.prompt_token_ids + t.token_ids
        assert row.ids[: len(whole)] == whole
        # What was read or sampled up to the end of the turn, and nothing after it, belongs to it or to earlier turns.
        assert all(index <= t.index for index in row.turns[: len(whole) - len(row.prompt_ids)])
        assert all(index > t.index for index in row.turns[len(whole) - len(row.prompt_ids) :])


@given(trees())
def test_rows_when_one_begins_then_its_turn_continues_no_row_and_it_says_why(tree) -> None:
    rows = rows_of(tree)
    for number, row in enumerate(rows):
        first = row.turns[0]
        earlier = [
            other.ids[: len(other.prompt_ids) + sum(index < first for index in other.turns)] for other in rows[:number]
        ]
        assert not any(row.prompt_ids[: len(ids)] == ids for ids in earlier)
        assert (row.began is None) is (number == 0)
        assert number == 0 or f"turn {first} " in row.began


@given(st.lists(st.tuples(TOKENS, TOKENS), max_size=6))
def test_rows_when_the_history_is_linear_then_there_is_one(steps) -> None:
    ids, turns = (), []
    for index, (read, sampled) in enumerate(steps):
        turns.append(turn(index, ids + read, sampled))
        ids += read + sampled
    rows = rows_of(trajectory(*turns))
    assert len(rows) == bool(any(sampled for _, sampled in steps))
    if rows:
        last = max(t.index for t in turns if t.token_ids)
        assert rows[0].ids == turns[last].prompt_token_ids + turns[last].token_ids


def test_rows_when_two_agents_take_turns_then_each_has_one() -> None:
    one, other = turn(0, (1, 2), (3,)), turn(1, (9, 2), (4, 4))
    rows = rows_of(trajectory(one, other, turn(2, (1, 2, 3, 8), (5,)), turn(3, (9, 2, 4, 4, 8), (6,))))
    assert [row.ids for row in rows] == [(1, 2, 3, 8, 5), (9, 2, 4, 4, 8, 6)]
    assert [row.mask for row in rows] == [(1, 0, 1), (1, 1, 0, 1)]
    assert [row.turns for row in rows] == [(0, 2, 2), (1, 1, 3, 3)]


FIRST = turn(0, (1, 2, 3), (4, 5))
SECOND = turn(1, (1, 2, 3, 4, 5, 6, 7), (8,))
REASONS = {
    "sampled": ((1, 2, 3, 4, 0, 6), "turn 2 parts from row 0 at token 4 of 8, which turn 0 sampled"),
    "read-later": ((1, 2, 3, 4, 5, 6, 0), "turn 2 parts from row 0 at token 6 of 8, which turn 1 read"),
    "read-first": ((1, 2, 0), "turn 2 parts from row 0 at token 2 of 8, which turn 0 read"),
    "sampled-last": ((1, 2, 3, 4, 5, 6, 7, 0), "turn 2 parts from row 0 at token 7 of 8, which turn 1 sampled"),
    "repeated-first": ((1, 2, 3), "turn 2 repeats the prompt of turn 0"),
    "repeated-second": ((1, 2, 3, 4, 5, 6, 7), "turn 2 repeats the prompt of turn 1"),
    "cut": ((1, 2), "turn 2 reads only the first 2 of the 8 tokens of row 0"),
    "another": ((0, 2, 3), "turn 2 has not even its first token in common with an earlier row"),
    "empty": ((), "turn 2 has not even its first token in common with an earlier row"),
}


@pytest.mark.parametrize("name", list(REASONS))
def test_rows_when_a_turn_continues_nothing_then_the_reason_is_said(name) -> None:
    prompt, reason = REASONS[name]
    assert [row.began for row in rows_of(trajectory(FIRST, SECOND, turn(2, prompt, (9,))))] == [None, reason]


def test_rows_when_a_call_was_repeated_then_both_answers_are_trained_and_the_next_turn_continues_what_it_read() -> None:
    again = turn(1, (1, 2, 3), (6,))
    rows = rows_of(trajectory(FIRST, again, turn(2, (1, 2, 3, 6, 7), (8,))))
    assert [row.turns for row in rows] == [(0, 0), (1, 2, 2)]
    assert [row.ids for row in rows] == [(1, 2, 3, 4, 5), (1, 2, 3, 6, 7, 8)]


def test_rows_when_a_turn_continues_several_then_the_longest_grows() -> None:
    rows = rows_of(trajectory(turn(0, (1,), (2,)), turn(1, (1,), (2, 3)), turn(2, (1, 2, 3, 4), (5,))))
    assert [row.ids for row in rows] == [(1, 2), (1, 2, 3, 4, 5)]


def test_per_token_when_turns_have_numbers_then_each_sampled_token_has_that_of_its_turn() -> None:
    (row,) = rows_of(trajectory(FIRST, SECOND))
    assert row.per_token([0.5, -2.0]) == (0.5, 0.5, 0.0, 0.0, -2.0)


@pytest.mark.parametrize(
    ("changed", "missing"),
    [
        ({"token_ids": None}, "token_ids"),
        ({"logprobs": None}, "logprobs"),
        ({"logprobs": (-1.0,)}, "logprobs"),
        ({"prompt_token_ids": None, "token_ids": None}, "prompt_token_ids and no token_ids"),
    ],
    ids=["ids", "logprobs", "too-few-logprobs", "both"],
)
def test_rows_when_a_turn_lacks_tokens_then_the_error_names_it(changed, missing) -> None:
    values = {"token_ids": (4, 5), "logprobs": (-1.0, -2.0), "prompt_token_ids": (1,), **changed}
    with pytest.raises(PayloadError, match=rf"turn 1 of trajectory t-1 has no {missing}, or not one log-probability"):
        rows_of(trajectory(FIRST, Turn(1, None, None, None, 0.0, 0.0, **values)))
