"""Who answers inference: a function, a recording, or another server (`upstream`)."""

from __future__ import annotations

import functools
import inspect
import itertools
import json
import threading
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime._threads import Workers
from aws_rft_sdk.runtime.chat import AnswerError, read_answer

_WORKERS = 256


class PolicyError(Exception):
    """Raise it in a policy to choose the status that the agent is answered with. The turn is not recorded.

    Args:
        message: Text of the answer, cut to 1,024 characters.
        status: HTTP status from 400 to 599.
        retry_after_seconds: Value of `Retry-After`, None for no such header.
    """

    def __init__(self, message: str, status: int = 400, *, retry_after_seconds: float | None = None) -> None:
        if not 400 <= status <= 599:
            raise ValueError(f"status is {status}; a policy can refuse with 400 to 599")
        super().__init__(message)
        self.status = status
        self.retry_after_seconds = retry_after_seconds


class Call(NamedTuple):
    """One inference call as a policy sees it."""

    request: dict[str, JSON]
    """The chat request, parsed."""
    body: bytes
    """The same as it arrived; the two say the same."""
    stream: bool
    """Whether the caller wants an event stream. Only a policy that returns a `Passthrough` has to care."""
    trajectory_id: str | None
    """None for a call outside any trajectory."""
    turn: int
    """How many turns of the trajectory were begun before this one."""


class Passthrough(NamedTuple):
    """The answer of another server, to be handed on byte for byte."""

    status: int
    content_type: str
    retry_after: str | None
    pieces: AsyncIterator[bytes]
    """The body. Breaks off with a `PolicyError` if the server does."""
    close: Callable[[], Awaitable[None]]


class Policy(Protocol):
    """Whatever answers inference."""

    def begin(self, trajectory_id: str, prompt: JSON) -> None:
        """Take note of a new trajectory; called once for each, in the order of their creation."""

    async def answer(self, call: Call) -> Mapping[str, JSON] | Passthrough:
        """Return a chat completion, or the answer of another server.

        Raises:
            PolicyError: The agent is answered with its status. Any other exception is answered 500.
        """

    async def aclose(self) -> None:
        """Release what was opened in the running event loop."""


PolicyFunction = Callable[[dict[str, Any]], Any]


class CallablePolicy:
    """Answers with a function of the chat request.

    Args:
        fn: Gets the parsed chat request, a dict that it may keep and change. Returns an assistant message in OpenAI
            chat format, or its text, or a whole chat completion (to give `usage`, `logprobs` or token ids along). A
            coroutine function runs in the server's event loop; any other runs in one of up to 256 threads, so it may
            block and must be safe to be called concurrently.
    """

    def __init__(self, fn: PolicyFunction) -> None:
        if not callable(fn):
            raise ConfigurationError(f"policy must be callable or a policy object, not {type(fn).__name__}")
        self._fn = fn
        self._is_async = inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004 - asked whether it is async, not whether it is callable
        self._workers: Workers | None = None

    def begin(self, trajectory_id: str, prompt: JSON) -> None:
        """Do nothing: a function sees requests only."""

    async def answer(self, call: Call) -> Mapping[str, JSON]:
        """Return what the function makes of the request."""
        if self._is_async:
            value = await self._fn(call.request)
        else:
            if self._workers is None:
                self._workers = Workers(_WORKERS, "aws-rft-policy")
            value = await self._workers.run(functools.partial(self._fn, call.request))
            if inspect.isawaitable(value):
                value = await value
        try:
            return read_answer(value, call.request)
        except AnswerError as error:
            raise PolicyError(f"the policy's answer cannot be used: {error}", status=500) from error

    async def aclose(self) -> None:
        """Let the threads end; calls in progress are not waited for."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None


class ReplayPolicy:
    """Answers with recorded trajectories.

    A recording is one line of JSON: `{"prompt": <text of the first user message>, "turns": [<assistant message in
    OpenAI chat format>, ...]}`. The k-th rollout of a prompt, counted in the order in which the runtime created them,
    gets the k-th recording of that prompt, round robin; its turn t is answered with `turns[t]`. Where several prompt
    cells lead to one first user message, their rollouts share its recordings, each taking one that is free. An unknown
    prompt, and a turn past the end of the recording, are answered 400.

    Args:
        recordings: Path of a JSON Lines file, or the parsed lines themselves.

    Raises:
        ConfigurationError: The file cannot be read, is empty, or a line is no recording; the text names the line.
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
        """Return which rollout of a first user message this is, from 0."""
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

    async def aclose(self) -> None:
        """Do nothing."""


def first_user_text(request: Mapping[str, Any]) -> str:
    """Return the text of a chat request's first user message, text blocks joined; "" when there is none."""
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


def make_policy(policy: Policy | PolicyFunction | None) -> Policy | None:
    """Return a policy object; a plain function is wrapped, None stays None."""
    if policy is None or (hasattr(policy, "answer") and hasattr(policy, "begin") and hasattr(policy, "aclose")):
        return policy
    return CallablePolicy(policy)
