"""The pages for people at `/`. They are of a room above this one, so they are looked up by name when someone asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from importlib import import_module

from starlette.types import ASGIApp, Receive, Scope, Send

from aws_rft_sdk.runtime.trajectories import Trajectories

_ROOM = "aws_rft_sdk.viewer.live"


class RuntimePages:
    """Serves the pages over what this runtime has recorded.

    Args:
        endpoint: URL of the runtime, which the pages show.
        trajectories: What the runtime has recorded.
        key: The runtime's key. None if it asks for none.
        own_hosts: Host names that a call may be addressed to, besides loopback. None for all.
        stopping: Whether the server is about to end. Streams end then.
    """

    def __init__(
        self,
        endpoint: str,
        trajectories: Trajectories,
        key: str | None,
        own_hosts: Collection[str] | None,
        stopping: Callable[[], bool],
    ) -> None:
        self._make = lambda: import_module(_ROOM).LivePages(endpoint, trajectories, key, own_hosts, stopping)
        self._opened: asyncio.Task[LivePages] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a call of a browser."""
        # In a thread: the first call imports the pages and makes an index.
        if self._opened is None or (self._opened.done() and self._opened.exception() is not None):
            self._opened = asyncio.ensure_future(asyncio.to_thread(self._make))
        pages = await asyncio.shield(self._opened)
        await pages.app(scope, receive, send)

    async def aclose(self) -> None:
        """Stop looking at the runtime."""
        if self._opened is not None and self._opened.done() and self._opened.exception() is None:
            await asyncio.to_thread(self._opened.result().close)
        self._opened = None


class LivePages:
    """What the room above gives: an application, and a way to end it."""

    app: ASGIApp

    def close(self) -> None:
        """Stop looking at the runtime."""
