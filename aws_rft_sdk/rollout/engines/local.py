"""In this process: coroutines in the event loop, all else in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from aws_rft_sdk.errors import UnavailableError
from aws_rft_sdk.lifecycle.calling import DEADLINE_SECONDS, Handler, run_handler
from aws_rft_sdk.lifecycle.executor import DaemonThreads, hosting_handlers
from aws_rft_sdk.lifecycle.outcomes import RolloutOutcome, outcome_of
from aws_rft_sdk.rollout.engines.base import Engine


class LocalEngine(Engine):
    """Runs rollouts in this process: the cheapest way, for agents that mostly wait for the policy.

    While it is entered, the default executor of the event loop is one that hung tools cannot use up.

    Args:
        handler: A function decorated with `rft_handler`, of any kind.
        deadline_seconds: For each rollout; None for no deadline.
    """

    def __init__(self, handler: Handler, *, deadline_seconds: float | None = DEADLINE_SECONDS) -> None:
        self._handler = handler
        self._deadline_seconds = deadline_seconds
        self._threads: DaemonThreads | None = None
        self._leaving = ExitStack()
        self._lingering: list[Callable[[], bool]] = []

    @property
    def hung(self) -> int:
        """See `Engine.hung`. Also after the engine was left."""
        self._lingering = [lingers for lingers in self._lingering if lingers()]
        return len(self._lingering) + (self._threads.hung if self._threads is not None else 0)

    async def __aenter__(self) -> LocalEngine:
        """Take over the default executor of the running event loop."""
        self._threads = self._leaving.enter_context(hosting_handlers(asyncio.get_running_loop()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the event loop its executor back."""
        self._leaving.close()  # and keeps the threads, to count those that hang

    async def run(self, payload: Mapping[str, Any], trajectory_id: str) -> RolloutOutcome:
        """Run the handler. See `Engine.run`.

        Raises:
            UnavailableError: So many threads hang in tools that this rollout might wait for one in vain.
        """
        if self._threads is None:
            await self.__aenter__()  # for children and actors, which end with their process
        assert self._threads is not None  # noqa: S101 - for the type checker
        if self._threads.is_exhausted:
            raise UnavailableError(f"{self.hung} threads hang in tools. Give the tools time limits of their own")
        deadline = self._deadline_seconds
        ended = await run_handler(self._handler, payload, deadline_seconds=deadline, trajectory_id=trajectory_id)
        if ended.lingers():
            self._lingering.append(ended.lingers)
        return outcome_of(ended)
