"""The measurement of the ceiling of one runtime, at a size that takes a moment."""

import sys

import pytest

from benchmarks.ceiling import conversation, measure, show


@pytest.mark.skipif(sys.platform != "linux", reason="reads the processor time of the runtime in /proc")
def test_measure_when_few_rollouts_are_played_then_full_is_the_largest_and_none_the_smallest(tmp_path):
    found = [measure(capture, 40, 8, 2, tmp_path) for capture in ("full", "last", "none")]

    assert [item.rollouts for item in found] == [40] * 3
    sizes = [item.database_bytes for item in found]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 2 * sizes[1]
    assert show(found).count("\n") == 4


def test_conversation_when_it_has_turns_then_it_grows_with_each():
    sizes = [len(body) for body in conversation(4)]

    assert sizes == sorted(set(sizes))
