"""The pages of a local runtime, which it serves itself at `/`."""

from __future__ import annotations

from collections.abc import Callable, Collection

from aws_rft_sdk.runs.looking import RunView
from aws_rft_sdk.runs.metrics import SUCCESS_THRESHOLD
from aws_rft_sdk.viewer.app import create_app
from aws_rft_sdk.viewer.watching import WatchedRun


class LivePages:
    """Pages over the trajectories of a runtime.

    Args:
        endpoint: URL of the runtime.
        key: Its key, which the pages ask for. None for none.
        own_hosts: Host names that a call may be addressed to, besides loopback. None for all.
        stopping: Whether the server is about to end.
    """

    def __init__(
        self, endpoint: str, key: str | None, own_hosts: Collection[str] | None, stopping: Callable[[], bool]
    ) -> None:
        self._run = WatchedRun(RunView.open(endpoint, key=key), SUCCESS_THRESHOLD)
        self.app = create_app([self._run], key=key, own_hosts=own_hosts, stopping=stopping)

    def close(self) -> None:
        """Stop looking at the runtime."""
        self._run.close()
