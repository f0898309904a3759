"""IAM policies: who needs which action on what."""

from __future__ import annotations

from collections.abc import Sequence

from aws_rft_sdk._frozen import JSON


def statement(actions: Sequence[str], resources: Sequence[str] = ("*",)) -> dict[str, JSON]:
    """Return the policy statement that allows actions on resources."""
    return {"Effect": "Allow", "Action": sorted(actions), "Resource": list(resources)}
