"""What a handler says once for the feedback clients that are made for it: their outbox and their authentication."""

from __future__ import annotations

import os
from contextvars import ContextVar
from typing import NamedTuple

from aws_rft_sdk.feedback.outbox import Outbox
from aws_rft_sdk.settings import Auth


class Defaults(NamedTuple):
    """What a feedback client uses for an argument that it was not given. The environment comes after this."""

    outbox: Outbox | str | os.PathLike[str] | None = None
    auth: Auth | None = None


_NONE = Defaults()
client_defaults: ContextVar[Defaults] = ContextVar("aws_rft_sdk_client_defaults", default=_NONE)
"""Set while a handler makes the client of a rollout."""
