"""Builds the zip of the Lambda forwarder: our modules that it needs, and nothing that Lambda has."""

from __future__ import annotations

from pathlib import Path

from aws_rft_sdk.rewards.packaging import Package, closure, write_package

_MODULE = "aws_rft_sdk.workers.lambda_forwarder"
_ENTRY = f'''"""Hands rollouts on to a worker."""

from {_MODULE} import handler as lambda_handler

__all__ = ["lambda_handler"]
'''


def build_forwarder(out: str | Path) -> Package:
    """Write the zip of the Lambda forwarder, overwriting `out`. The same version gives the same bytes."""
    files, needs = closure([_MODULE])
    return write_package(out, {**files, "lambda_function.py": _ENTRY.encode()}, needs)
