"""Make any Strands agent trainable by multi-turn reinforcement fine-tuning.

The public names are resolved when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aws_rft_sdk.adapters.openai import instrument
    from aws_rft_sdk.adapters.runtime_model import runtime_model
    from aws_rft_sdk.adapters.strands import RFTPlugin, wrap_model
    from aws_rft_sdk.client import AsyncRolloutFeedbackClient, RolloutFeedbackClient
    from aws_rft_sdk.context import RFTContext
    from aws_rft_sdk.feedback.outbox import Outbox
    from aws_rft_sdk.handler import rft_handler
    from aws_rft_sdk.runtime import LocalRuntime
    from aws_rft_sdk.types import RolloutRequest, RolloutResult

__version__ = "0.1.0"

_HOMES = {
    "AsyncRolloutFeedbackClient": "aws_rft_sdk.client",
    "LocalRuntime": "aws_rft_sdk.runtime",
    "Outbox": "aws_rft_sdk.feedback.outbox",
    "RFTPlugin": "aws_rft_sdk.adapters.strands",
    "RFTContext": "aws_rft_sdk.context",
    "RolloutFeedbackClient": "aws_rft_sdk.client",
    "RolloutRequest": "aws_rft_sdk.types",
    "RolloutResult": "aws_rft_sdk.types",
    "instrument": "aws_rft_sdk.adapters.openai",
    "rft_handler": "aws_rft_sdk.handler",
    "runtime_model": "aws_rft_sdk.adapters.runtime_model",
    "wrap_model": "aws_rft_sdk.adapters.strands",
}

__all__ = [
    "AsyncRolloutFeedbackClient",
    "LocalRuntime",
    "Outbox",
    "RFTContext",
    "RFTPlugin",
    "RolloutFeedbackClient",
    "RolloutRequest",
    "RolloutResult",
    "instrument",
    "rft_handler",
    "runtime_model",
    "wrap_model",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
