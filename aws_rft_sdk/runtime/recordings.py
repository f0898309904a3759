"""Recordings of trajectories: written from captured ones, and played by a policy."""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aws_rft_sdk._frozen import JSON, thaw
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime.capture import check_captured
from aws_rft_sdk.runtime.chat import AnswerError, read_answer
from aws_rft_sdk.runtime.policies import Call, Policy, PolicyError
from aws_rft_sdk.types import Trajectory


class ReplayPolicy(Policy):
    """Answers with recorded trajectories.

    A recording is one line of JSON: `{"prompt": <text of the first user message>, "turns": [<assistant message in
    OpenAI chat format>, ...]}`. The k-th rollout of a prompt, in the order of creation, gets the k-th recording of that
    prompt, round robin. Its turn t gets `turns[t]`. If several prompt cells lead to the same first user message, their
    rollouts share its recordings, and each takes a free one. An unknown prompt is answered 400, and so is a turn past
    the end of the recording.

    Args:
        recordings: Path of a JSON Lines file, or the parsed lines.

    Raises:
        ConfigurationError: The file cannot be read or is empty, or a line is no recording. The text names the line.
    """

    def __init__(self, recordings: str | Path | Iterable[Mapping[str, Any]]) -> None:
        if isinstance(recordings, str | Path):
            self._name, rows = str(recordings), _read_lines(Path(recordings))
        else:
            self._name, rows = "recordings", list(enumerate(recordings, 1))
        self._by_prompt: dict[str, list[list[JSON]]] = {}
        for number, row in rows:
            prompt, turns = _read_recording(row, f"{self._name}, line {number}")
            self._by_prompt.setdefault(prompt, []).append(turns)
        if not self._by_prompt:
            raise ConfigurationError(f"{self._name} holds no recordings")
        self._rollouts: Counter[str] = Counter()
        self._cell_ordinals: dict[str, int] = {}
        self._ordinals: dict[str, int] = {}
        self._taken: defaultdict[str, set[int]] = defaultdict(set)
        self._lock = threading.Lock()  # rollouts begin in the user's threads

    def begin(self, trajectory_id: str, prompt: JSON) -> None:
        """Count the rollouts of each prompt cell."""
        cell = prompt if isinstance(prompt, str) else json.dumps(prompt)
        with self._lock:
            self._cell_ordinals[trajectory_id] = self._rollouts[cell]
            self._rollouts[cell] += 1

    def _ordinal(self, trajectory_id: str, text: str) -> int:
        """Return the number of this rollout among those with the same first user message, from 0."""
        with self._lock:
            if trajectory_id not in self._ordinals:
                taken = self._taken[text]
                ordinal = self._cell_ordinals.get(trajectory_id, 0)
                if ordinal in taken:
                    ordinal = next(free for free in itertools.count() if free not in taken)
                taken.add(ordinal)
                self._ordinals[trajectory_id] = ordinal
            return self._ordinals[trajectory_id]

    async def answer(self, call: Call) -> Mapping[str, JSON]:
        """Return the recorded message of this turn."""
        prompt = first_user_text(call.request)
        recordings = self._by_prompt.get(prompt)
        if recordings is None:
            raise PolicyError(f"{self._name} has no recording of the prompt {prompt[:200]!r}")
        tracked = call.trajectory_id is not None
        ordinal = self._ordinal(call.trajectory_id or "", prompt) % len(recordings) if tracked else 0
        turns = recordings[ordinal]
        if call.turn >= len(turns):
            raise PolicyError(
                f"the recording is over: {self._name} has {len(turns)} turns for rollout {ordinal} of the prompt "
                f"{prompt[:200]!r}, and the agent asks for turn {call.turn} (counted from 0)"
            )
        return read_answer(turns[call.turn], call.request)


def first_user_text(request: Mapping[str, Any]) -> str:
    """Return the text of a chat request's first user message, text blocks joined. Returns "" if there is none."""
    for message in request.get("messages") or ():
        if isinstance(message, Mapping) and message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, str):
                return content
            blocks = content if isinstance(content, list) else []
            texts = [block.get("text") for block in blocks if isinstance(block, Mapping)]
            return "".join(text for text in texts if isinstance(text, str))
    return ""


def _read_lines(path: Path) -> list[tuple[int, object]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the recording {path} cannot be read: {error}") from error
    rows: list[tuple[int, object]] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                rows.append((number, json.loads(line)))
            except ValueError as error:
                raise ConfigurationError(f"{path}, line {number} is not JSON: {error}") from error
    return rows


def _read_recording(row: object, where: str) -> tuple[str, list[JSON]]:
    prompt = row.get("prompt") if isinstance(row, Mapping) else None
    turns = row.get("turns") if isinstance(row, Mapping) else None
    if not isinstance(prompt, str) or not isinstance(turns, list) or not turns:
        raise ConfigurationError(f'{where}: a recording is {{"prompt": <text>, "turns": [<assistant message>, ...]}}')
    for index, turn in enumerate(turns):
        try:
            read_answer(turn, {})
        except AnswerError as error:
            raise ConfigurationError(f"{where}, turn {index}: {error}") from error
    return prompt, turns


def make_recording(trajectory: Trajectory) -> dict[str, JSON] | None:
    """Return a trajectory as a recording, or None if it has no turn with a message.

    Raises:
        ConfigurationError: It was recorded with `--capture none`.
    """
    check_captured(trajectory)
    turns = [thaw(turn.message) for turn in trajectory.turns if turn.message is not None]
    if not turns:
        return None
    return {"prompt": first_user_text(trajectory.turns[0].request), "turns": turns}


def write_recordings(trajectories: Iterable[Trajectory], path: str | Path) -> int:
    """Write trajectories as recordings, one line of JSON each, in the order given.

    Args:
        trajectories: The trajectories. Those without turns are left out.
        path: The file. It is replaced as a whole or not at all.

    Returns:
        The number of recordings written.

    Raises:
        ConfigurationError: A trajectory was recorded with `--capture none`. The old file is untouched.
        OSError: The file cannot be written. The old file is untouched.
    """
    target = Path(path)
    partial = target.with_name(f"{target.name}.partial")
    count = 0
    try:
        with partial.open("w", encoding="utf-8") as file:
            for trajectory in trajectories:
                recording = make_recording(trajectory)
                if recording is not None:
                    file.write(json.dumps(recording, ensure_ascii=False) + "\n")
                    count += 1
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return count
