"""A run that pages are made of: its index is kept up to date while someone looks."""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any

from aws_rft_sdk.errors import RFTError
from aws_rft_sdk.runs._index import Progress
from aws_rft_sdk.runs.looking import RunView

logger = logging.getLogger(__name__)

_PAUSE_SECONDS = 1.0
_LOOKED_SECONDS = 15.0
"""So long after the last look the index is still kept up to date."""
_AT_ONCE = 500
"""Rollouts whose turns are read between two looks at the clock."""
_FIRST_WAIT_SECONDS = 1.0
_FIGURES_SECONDS = 2.0
_COSTS = 10
"""Figures that took a while are made anew only after this many times that while."""


class WatchedRun:
    """A view whose index a thread brings up to date from the first look until some time after the last one.

    Args:
        view: The run. It is closed with this object.
        success_threshold: Lowest reward that counts as a success.
    """

    def __init__(self, view: RunView, success_threshold: float) -> None:
        self.view, self.success_threshold = view, success_threshold
        self.progress: Progress | None = None
        """How far the index is. None until the records are in it."""
        self.trouble: str | None = None
        """Why the index cannot be brought up to date."""
        self.version = ""
        """Changes when the pages would show something else."""
        self._lock = threading.Lock()
        self._looked = 0.0
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._closing = threading.Event()
        self._figures: dict[str, tuple[float, float, object, dict[str, Any]]] = {}

    @property
    def name(self) -> str:
        """The path or the URL of the run."""
        return self.view.name

    def look(self) -> None:
        """Note that someone looks. A look after a while without any waits up to 1 s for the index."""
        with self._lock:
            self._looked = time.monotonic()
            if self._thread is not None or self._closing.is_set():
                return
            self._ready.clear()
            self._thread = threading.Thread(target=self._follow, name="aws-rft-view", daemon=True)
            self._thread.start()
        self._ready.wait(_FIRST_WAIT_SECONDS)

    def _follow(self) -> None:
        while self._is_looked_at():
            self._update()
            if self.trouble or self.progress is None or self.progress.is_done:
                self._ready.set()
                self._closing.wait(_PAUSE_SECONDS)

    def _is_looked_at(self) -> bool:
        with self._lock:
            if not self._closing.is_set() and time.monotonic() - self._looked < _LOOKED_SECONDS:
                return True
            self._thread = None
            return False

    def _update(self) -> None:
        state: object = None
        try:
            self.progress = self.view.update(most=_AT_ONCE)
            self.trouble = None
            state = self.view.state()
        except RFTError as error:
            self.trouble = str(error)
        except Exception as error:  # the pages say it, and the next update may succeed
            logger.exception("run=<%s> | its index cannot be brought up to date", self.name)
            self.trouble = f"the run cannot be read: {error!r:.200}"
        self.version = hashlib.sha256(repr((self.progress, self.trouble, state)).encode()).hexdigest()[:16]

    def figures(self, name: str, version: object, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what `make` returns. What it returned before is returned again if that is recent or still holds.

        Args:
            name: What the figures are called.
            version: Changes with the figures.
            make: Makes them.
        """
        made_at, cost, known, values = self._figures.get(name, (-math.inf, 0.0, None, {}))
        began = time.monotonic()
        if known != version and began - made_at > max(_FIGURES_SECONDS, _COSTS * cost):
            values = make()
            ended = time.monotonic()
            self._figures[name] = ended, ended - began, version, values
        return values

    def close(self) -> None:
        """Stop the thread and close the view."""
        with self._lock:
            self._closing.set()
            thread = self._thread
        if thread is not None:
            thread.join(timeout=5.0)
        self.view.close()
