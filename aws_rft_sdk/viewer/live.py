"""The pages of a local runtime, which it serves itself at `/`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import DatasetError
from aws_rft_sdk.runs.looking import RunView
from aws_rft_sdk.runs.metrics import SUCCESS_THRESHOLD
from aws_rft_sdk.runtime.records import TrajectoryRow, TurnRow
from aws_rft_sdk.runtime.trajectories import Trajectories
from aws_rft_sdk.viewer.app import create_app
from aws_rft_sdk.viewer.watching import WatchedRun


class LivePages:
    """Pages over the trajectories of a runtime in this process.

    Args:
        name: What the pages call the runtime, such as its URL.
        trajectories: What it has recorded.
        key: Its key, which the pages ask for. None for none.
        own_hosts: Host names that a call may be addressed to, besides loopback. None for all.
        stopping: Whether the server is about to end.
    """

    def __init__(
        self,
        name: str,
        trajectories: Trajectories,
        key: str | None,
        own_hosts: Collection[str] | None,
        stopping: Callable[[], bool],
    ) -> None:
        view = RunView(name, None, None, _Recorded(name, trajectories))
        self._run = WatchedRun(view, SUCCESS_THRESHOLD)
        self.app = create_app([self._run], key=key, own_hosts=own_hosts, stopping=stopping)

    def close(self) -> None:
        """Stop looking at the runtime."""
        self._run.close()


class _Recorded:
    """What a runtime in this process has recorded. It needs no call of the runtime, so neither its key nor TLS."""

    def __init__(self, name: str, trajectories: Trajectories) -> None:
        self.name = name
        self._trajectories = trajectories

    def stamp(self) -> JSON:
        """Return None."""

    def refresh(self) -> None:
        """Do nothing."""

    def rows(self, *, first: int = 0, most: int = 1, numbers: Sequence[int] | None = None) -> list[TrajectoryRow]:
        """See `Database`."""
        return self._trajectories.rows(first=first, most=most, numbers=numbers)

    def turns(self, numbers: Sequence[int]) -> Iterator[tuple[int, list[TurnRow] | DatasetError]]:
        """See `Database`."""
        for number in numbers:
            yield number, self._trajectories.turns(number)

    def close(self) -> None:
        """Do nothing: the runtime closes its records."""
