"""What a handler says once for all the feedback clients that are made for it: their outbox and their authentication."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from aws_rft_sdk.feedback.outbox import Outbox
from aws_rft_sdk.settings import Auth


class Defaults(NamedTuple):
    """What a feedback client uses where it was not told otherwise. The environment comes after it."""

    outbox: Outbox | str | os.PathLike[str] | None = None
    auth: Auth | None = None


_NONE = Defaults()
_current: ContextVar[Defaults] = ContextVar("aws_rft_sdk_client_defaults", default=_NONE)


def client_defaults() -> Defaults:
    """Return the defaults for a feedback client that is made here."""
    return _current.get()


@contextmanager
def for_clients(defaults: Defaults) -> Iterator[None]:
    """Give `defaults` to the feedback clients that are made in the body of a `with`."""
    token = _current.set(defaults)
    try:
        yield
    finally:
        _current.reset(token)
