"""Skips tests whose optional packages are not installed, and tests that take long. `.ci/run long` runs all of them."""

import os
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


long = pytest.mark.skipif("RFT_TEST_LONG" not in os.environ, reason="takes long: set RFT_TEST_LONG=1")
"""Skips a test that takes long, where shorter ones prove nearly the same. `.ci/run long` runs it."""
