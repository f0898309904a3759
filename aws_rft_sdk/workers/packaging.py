"""Builds the zip of the Lambda forwarder: our modules that it needs, and nothing that Lambda has."""

from __future__ import annotations

import sys
from pathlib import Path

from aws_rft_sdk.rewards.packaging import IN_LAMBDA, Package, closure, named, zipped

_MODULE = "aws_rft_sdk.workers.lambda_forwarder"
_ENTRY = f'''"""Hands rollouts on to a worker."""

from {_MODULE} import handler as lambda_handler

__all__ = ["lambda_handler"]
'''


def build_forwarder(out: str | Path) -> Package:
    """Write the zip of the Lambda forwarder, overwriting `out`. The same version gives the same bytes."""
    files, needs = closure([_MODULE])
    content = {**named(files), "lambda_function.py": _ENTRY.encode()}
    data = zipped(content)
    Path(out).write_bytes(data)
    missing = needs - sys.stdlib_module_names - IN_LAMBDA
    return Package(
        Path(out), tuple(sorted(content)), len(data), sum(map(len, content.values())), tuple(sorted(missing))
    )
