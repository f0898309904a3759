"""A run that pages are made of: its index is kept up to date while someone looks."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
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
_FIGURES_SECONDS = 2.0


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
        self._figures: dict[str, tuple[float, dict[str, Any]]] = {}

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

    def figures(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what `make` returns. What it returned under this name less than 2 s ago is returned again."""
        made_at, values = self._figures.get(name, (-math.inf, {}))
        if time.monotonic() - made_at > _FIGURES_SECONDS:
            values = make()
            self._figures[name] = time.monotonic(), values
        return values

    def close(self) -> None:
        """Stop the thread and close the view."""
        self._closed = True
        if self._thread is not None:
            self._thread.join(timeout=5.0)
        self.view.close()
