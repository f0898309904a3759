from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk.adapters import _http_turns

from .callers import Caller


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def caller(request: pytest.FixtureRequest) -> Iterator[Caller]:
    caller = Caller(request.param)
    yield caller
    caller.close()


@pytest.fixture
def clients(caller: Caller) -> Any:
    """A function that makes clients, which are closed when the test ends."""
    return caller.client


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float | None]]:
    """The waits before repetitions, none of which takes place: attempts made, seconds that the service asked for."""
    asked: list[tuple[int, float | None]] = []

    class Recording(Backoff):
        def delay(self, attempt: int, retry_after: float | None = None, uniform: Any = None) -> float:
            asked.append((attempt, retry_after))
            return 0.0

    monkeypatch.setattr(_http_turns, "BACKOFF", Recording())
    return asked
