"""A conversation that only grows has no breaks, whatever is said in it."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aws_rft_sdk.runs.fidelity import check_histories, fidelity_of
from aws_rft_sdk.types import Trajectory, TrajectoryStatus, Turn

TEXTS = st.text(max_size=6)
CALLS = st.sampled_from(["", "{}", "{ }", '{"a": 1}', '{"a": 1', "[", "null"])
ANSWERS = st.one_of(
    TEXTS.map(lambda text: {"role": "assistant", "content": text}),
    CALLS.map(
        lambda text: {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": text}}],
        }
    ),
)
ADDED = st.lists(
    st.builds(lambda role, text: {"role": role, "content": text}, st.sampled_from(["user", "tool"]), TEXTS)
)


def recorded(*turns: tuple[list[Any] | None, Any]) -> Trajectory:
    made = [
        Turn(
            index=index,
            span_id=None,
            request=None if messages is None else {"messages": messages},
            response={"choices": [{"message": answer}]},
            started_at=0.0,
            seconds=0.0,
        )
        for index, (messages, answer) in enumerate(turns)
    ]
    return Trajectory("t", "job", TrajectoryStatus.REWARD_RECEIVED, turns=tuple(made))


@given(st.lists(st.tuples(ADDED, ANSWERS), min_size=1, max_size=5))
def test_history_when_it_only_grows_then_it_is_one_row(steps: list[tuple[list[Any], Any]]) -> None:
    history: list[Any] = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    turns = []
    for added, answer in steps:
        history = [*history, *added]
        turns.append((history, answer))
        history = [*history, answer]

    found = check_histories(recorded(*turns))

    assert found.breaks == ()
    assert found.rows <= len({str(messages) for messages, _ in turns})


def test_history_when_no_request_was_kept_or_no_turn_was_made_then_nothing_is_known() -> None:
    assert fidelity_of(None) is None
    assert fidelity_of(recorded()) is None
    assert fidelity_of(recorded((None, None))) is None
