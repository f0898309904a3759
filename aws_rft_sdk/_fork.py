"""What a forked child must not inherit: connections, threads, and locks that nobody there will release."""

from __future__ import annotations

import os
from collections.abc import Callable


def in_forked_child(reset: Callable[[], None]) -> Callable[[], None]:
    """Call `reset` first in every process that is forked from this one. A decorator.

    The thread that forks may not hold the lock of a module, so `reset` makes the lock anew.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=reset)
    return reset
