"""Skips tests whose optional packages are not installed. CI installs all of them (`.ci/run`)."""

from importlib.util import find_spec

import pytest

MODULES = {
    "agentcore": "bedrock_agentcore",
    "litellm": "litellm",
    "parquet": "pyarrow",
    "ray": "ray",
    "report": "matplotlib",
    "rewards": "math_verify",
    "train": "trl",
}
"""The extras that `dev` leaves out, each with the module that it installs."""


def needs(extra: str) -> pytest.MarkDecorator:
    """Return a mark that skips a test, and says what to install, unless the extra's module is installed."""
    return pytest.mark.skipif(find_spec(MODULES[extra]) is None, reason=f"needs: pip install -e '.[{extra}]'")
