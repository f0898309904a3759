"""Makes folders of runs by the code that writes them: records by `RolloutRecord`, databases by the runtime's store."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aws_rft_sdk.runs.records import DATABASE_FILE, RECORDS_FILE, RolloutRecord, RolloutStatus
from aws_rft_sdk.runtime.records import TrajectoryRow, TurnRow, turn_key
from aws_rft_sdk.runtime.state import State
from aws_rft_sdk.runtime.store import Store
from aws_rft_sdk.types import TrajectoryStatus

JOB = "arn:aws:sagemaker:us-west-2:000000000000:job/AgentRFT/local"
CREATED = 1_000_000.0
CALCULATOR = {"type": "function", "function": {"name": "calculator", "parameters": {"type": "object"}}}


def said(role: str, content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **fields}


def calling(content: str | None, *calls: tuple[str, str], first: int = 0) -> dict[str, Any]:
    """Return an assistant message that calls tools, each given by name and arguments."""
    made = [
        {"id": f"c{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for number, (name, arguments) in enumerate(calls, start=first)
    ]
    return said("assistant", content, tool_calls=made)


def answered(text: str, call: int = 0) -> dict[str, Any]:
    return said("tool", text, tool_call_id=f"c{call}")


Turns = Sequence[tuple[list[dict[str, Any]], dict[str, Any] | None]]
"""Messages of the request, and the message of the answer, of each turn."""


def calculating(question: str = "How much is 6 * 7?", result: str = "42", system: str = "Calculate.") -> Turns:
    """Return two turns: the agent calls its tool, and answers."""
    asked = [said("system", system), said("user", question)]
    call = calling("Let me see.", ("calculator", '{"expression": "6 * 7"}'))
    return [(asked, call), ([*asked, call, answered(result)], said("assistant", f"It is {result}."))]


def turn_rows(number: int, turns: Turns, **request: Any) -> list[TurnRow]:
    rows = []
    for index, (messages, answer) in enumerate(turns):
        body = {"model": "default", "messages": messages, "tools": [CALCULATOR], **request}
        choices = [] if answer is None else [{"message": answer, "finish_reason": "stop"}]
        usage = {"prompt_tokens": 10 * (index + 1), "completion_tokens": 5}
        bodies = (json.dumps(body).encode(), json.dumps({"choices": choices, "usage": usage}).encode())
        rows.append(
            TurnRow(turn_key(number, index), f"span-{number}-{index}", "/sample", CREATED + index, 0.5, *bodies)
        )
    return rows


class Database:
    """A database that a test writes to, as a runtime does. Use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._errors: list[BaseException] = []
        self._store = Store(folder / DATABASE_FILE, short_requests=True, after_commit=self._committed)
        self._count = 0

    def _committed(self, waiters: list[Any], error: BaseException | None) -> None:
        for waiter in waiters:
            waiter.set()
        self._errors += [error] if error is not None else []

    def add(
        self,
        trajectory_id: str,
        turns: Turns = (),
        *,
        prompt: Any = "a prompt",
        rewards: tuple[float, ...] | None = (1.0,),
        status: TrajectoryStatus = TrajectoryStatus.REWARD_RECEIVED,
        rows: Sequence[TurnRow] | None = None,
        number: int | None = None,
    ) -> int:
        """Write a trajectory and its turns, and return its number. With a number, change the one that has it."""
        if number is None:
            number, self._count = self._count, self._count + 1
        rows = turn_rows(number, turns) if rows is None else rows
        state = State(status, len(rows), "ready", None, rewards if status == "REWARD_RECEIVED" else None, None)
        for row in (*rows, TrajectoryRow(number, trajectory_id, JOB, json.dumps(prompt), CREATED, state)):
            self._submit(row)
        return number

    def _submit(self, row: Any) -> None:
        done = threading.Event()
        self._store.submit(row, done)  # type: ignore[arg-type] # `_committed` knows what it waits with
        assert done.wait(30)
        assert not self._errors

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *error: object) -> None:
        self._store.close()


def record(
    trajectory_id: str, group: int = 0, sample: int = 0, reward: float | None = 1.0, **fields: Any
) -> RolloutRecord:
    values = {"turns": 2, "seconds": 1.5, "status": RolloutStatus.COMPLETED, **fields}
    return RolloutRecord(trajectory_id, group, sample, reward, **values)


def write_records(folder: Path, *records: RolloutRecord) -> Path:
    """Append records to a folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / RECORDS_FILE).open("a") as file:
        file.writelines(f"{one.to_json()}\n" for one in records)
    return folder
