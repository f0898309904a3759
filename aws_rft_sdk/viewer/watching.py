"""A run that pages are made of: its index is kept up to date while someone looks."""

from __future__ import annotations

import threading
import time
from typing import Any

from aws_rft_sdk.errors import RFTError
from aws_rft_sdk.runs._index import Progress
from aws_rft_sdk.runs.looking import RunView

_PAUSE_SECONDS = 1.0
_LOOKED_SECONDS = 15.0
"""So long after the last look the index is still kept up to date."""
_AT_ONCE = 500
"""Rollouts whose turns are read between two looks at the clock."""
_FIRST_WAIT_SECONDS = 1.0


class WatchedRun:
    """A view whose index a thread brings up to date from the first look until some time after the last one.

    Args:
        view: The run. It is closed with this object.
        success_threshold: Lowest reward that counts as a success.
    """

    def __init__(self, view: RunView, success_threshold: float) -> None:
        self.view, self.success_threshold = view, success_threshold
        self.progress = Progress(0, 0)
        self.trouble: str | None = None
        """Why the index cannot be brought up to date."""
        self._lock = threading.Lock()
        self._looked = 0.0
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._closed = False
        self._figures: tuple[Progress, dict[str, Any]] | None = None

    @property
    def name(self) -> str:
        """The path or the URL of the run."""
        return self.view.name

    def look(self) -> None:
        """Note that someone looks. The first look waits up to 1 s for the index."""
        with self._lock:
            self._looked = time.monotonic()
            if (self._thread is None or not self._thread.is_alive()) and not self._closed:
                self._ready.clear()
                self._thread = threading.Thread(target=self._update, name="aws-rft-view", daemon=True)
                self._thread.start()
        self._ready.wait(_FIRST_WAIT_SECONDS)

    def _update(self) -> None:
        while not self._closed and time.monotonic() - self._looked < _LOOKED_SECONDS:
            try:
                self.progress = self.view.update(most=_AT_ONCE)
                self.trouble = None
            except RFTError as error:
                self.trouble = str(error)
            if self.trouble or self.progress.is_done:
                self._ready.set()
                time.sleep(_PAUSE_SECONDS)

    def figures(self, make: Any) -> dict[str, Any]:
        """Return what `make` returns for this run, from memory if nothing is new."""
        if self._figures is None or self._figures[0] != self.progress or not self.progress.is_done:
            self._figures = self.progress, make(self)
        return self._figures[1]

    def close(self) -> None:
        """Stop the thread and close the view."""
        self._closed = True
        if self._thread is not None:
            self._thread.join(timeout=5.0)
        self.view.close()
