"""Starts rollouts in a local runtime, as the service does: a trajectory, and the payload that its agent receives."""

from __future__ import annotations

LOCAL_ROLLOUTS_PATH = "/local/rollouts"
"""Not of the contract: `POST` starts a rollout, `GET` answers that this is a local runtime."""
