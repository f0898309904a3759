from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk.jobs import BedrockJobs, _bedrock_calls, bedrock
from tests.jobs.mantle import Mantle


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bedrock_calls, "BACKOFF", Backoff(0.001, 0.01))
    monkeypatch.setattr(bedrock, "_LOOKS", (0.0, 0.001, 0.001))
    monkeypatch.setattr(bedrock, "_SETTLE_SECONDS", 0.01)


@pytest.fixture
def mantle(no_pauses: None) -> Iterator[Mantle]:
    with Mantle() as mantle:
        yield mantle


@pytest.fixture
def jobs(mantle: Mantle) -> Iterator[BedrockJobs]:
    with BedrockJobs(base_url=mantle.endpoint) as jobs:
        yield jobs


@pytest.fixture
def train(tmp_path: Path) -> Path:
    """Return a file that keeps all rules of Bedrock."""
    rows = [
        {"messages": [{"role": "user", "content": f"{n} + 1?"}], "reference_answer": str(n + 1)} for n in range(100)
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
