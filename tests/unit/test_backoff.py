from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aws_rft_sdk._backoff import Backoff, parse_retry_after


@given(attempt=st.integers(1, 10_000), base=st.floats(0, 10), cap=st.floats(0, 60))
def test_delay_when_drawn_then_it_lies_in_the_upper_half_and_below_the_cap(
    attempt: int, base: float, cap: float
) -> None:
    full = min(cap, base * 2.0 ** min(attempt - 1, 32))
    assert full / 2 <= Backoff(base, cap).delay(attempt) <= full


def test_delay_when_attempts_go_on_then_it_doubles_up_to_the_cap() -> None:
    longest = [Backoff(1.0, 5.0).delay(attempt, uniform=lambda low, high: high) for attempt in range(1, 6)]
    assert longest == [1.0, 2.0, 4.0, 5.0, 5.0]


@pytest.mark.parametrize(("asked", "expected"), [(0.0, 0.0), (3.0, 3.0), (500.0, 5.0), (-1.0, 0.0)])
def test_delay_when_the_service_asks_for_a_wait_then_it_is_kept_up_to_the_cap(asked: float, expected: float) -> None:
    assert Backoff(1.0, 5.0).delay(1, asked) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        pytest.param(None, None, id="none"),
        pytest.param("7", 7.0, id="seconds"),
        pytest.param("1.5", 1.5, id="fraction"),
        pytest.param("-3", 0.0, id="negative"),
        pytest.param("Thu, 01 Jan 1970 00:01:40 GMT", 40.0, id="date"),
        pytest.param("Thu, 01 Jan 1970 00:00:00 GMT", 0.0, id="date-in-the-past"),
        pytest.param("soon", None, id="text"),
        pytest.param("", None, id="empty"),
        pytest.param("nan", None, id="nan"),
    ],
)
def test_parse_retry_after_when_read_then_seconds_from_now(header: str | None, expected: float | None) -> None:
    assert parse_retry_after(header, now=lambda: 60.0) == expected


@given(st.text(max_size=30))
def test_parse_retry_after_when_the_header_is_anything_then_it_never_raises(header: str) -> None:
    parsed = parse_retry_after(header, now=lambda: 0.0)
    assert parsed is None or parsed >= 0
