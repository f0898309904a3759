"""Places in the user's own code: the nearest one in a stack, and those where threads and tasks stand now."""

from __future__ import annotations

import asyncio
import os
import sys
import sysconfig
import threading
import traceback
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any, cast

_SHOWN_PLACES = 3
_LIBRARIES = tuple(
    f"{path}{os.sep}"
    for path in {
        str(Path(__file__).parent),
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    }
)


def user_place(frame: FrameType | None) -> str:
    """Return the user's own frame that is nearest to `frame`, as "file:line in function"; "" when there is none."""
    while frame is not None:
        if is_users(frame):
            return _shown(frame)
        frame = frame.f_back
    return ""


def standing_places(loop: asyncio.AbstractEventLoop | None, but_not_in: set[threading.Thread]) -> str:
    """Return where the user's code stands now, in all threads and in the tasks of a loop: the three commonest places.

    Args:
        loop: The loop whose tasks to look at.
        but_not_in: Threads to leave out.
    """
    frames = sys._current_frames()
    places = [user_place(frames.get(t.ident or 0)) for t in threading.enumerate() if t not in but_not_in]
    if loop is not None:
        places += [_place_of_task(task) for task in asyncio.all_tasks(loop)]
    counted = Counter(place for place in places if place)
    return ", ".join(place for place, _ in counted.most_common(_SHOWN_PLACES))


def user_location(error: BaseException) -> str:
    """Return the last place of the user's in a traceback, as "file:line"; "" when there is none."""
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if is_users(frame)]
    return _shown(frames[-1][0], frames[-1][1]).partition(" ")[0] if frames else ""


def is_users(frame: FrameType) -> bool:
    """Whether a frame is neither of a library, nor of Python, nor ours."""
    file = frame.f_code.co_filename
    return not file.startswith(_LIBRARIES) and not file.startswith("<")


def _shown(frame: FrameType, line: int | None = None) -> str:
    file = os.path.relpath(frame.f_code.co_filename)
    name = frame.f_code.co_filename if file.startswith("..") else file
    return f"{name}:{line or frame.f_lineno} in {frame.f_code.co_name}"


def _place_of_task(task: asyncio.Task[Any]) -> str:
    """Follow what a task awaits, as far as Python tells it: up to an `async for`."""
    place, awaited = "", cast(Any, task.get_coro())
    while awaited is not None:
        kind = next((kind for kind in ("cr", "gi", "ag") if hasattr(awaited, f"{kind}_frame")), None)
        frame = getattr(awaited, f"{kind}_frame", None)
        if frame is not None and is_users(frame):
            place = _shown(frame)
        awaited = getattr(awaited, "gi_yieldfrom" if kind == "gi" else f"{kind}_await", None)
    return place
