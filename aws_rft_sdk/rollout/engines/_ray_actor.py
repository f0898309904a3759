"""What runs rollouts in a process of a Ray cluster. It knows nothing of Ray."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from aws_rft_sdk._loading import load_callable
from aws_rft_sdk.errors import UnavailableError
from aws_rft_sdk.failures import describe_error
from aws_rft_sdk.lifecycle.outcomes import RolloutOutcome
from aws_rft_sdk.rollout.engines.local import LocalEngine
from aws_rft_sdk.settings import overridden


class ActorRollouts:
    """Runs the rollouts that one actor is given.

    Args:
        reference: The handler, as for `load_callable`.
        import_paths: For `sys.path`; relative ones are of the working directory.
        deadline_seconds: For each rollout; None for no deadline.
        settings: Environment variables of this package. They travel as an argument, since there may be keys among
            them, and Ray writes the environments that it makes into its logs.

    Raises:
        Exception: Whatever loading the handler raises.
    """

    def __init__(
        self,
        reference: str,
        import_paths: Sequence[str],
        deadline_seconds: float | None,
        settings: Mapping[str, str],
    ) -> None:
        self._for_good = ExitStack()
        self._for_good.enter_context(overridden(settings))
        paths = [str(Path(path).resolve()) for path in import_paths]
        sys.path[:0] = [path for path in paths if path not in sys.path]
        self._engine = LocalEngine(load_callable(reference), deadline_seconds=deadline_seconds)
        self._tasks: dict[str, asyncio.Task[RolloutOutcome]] = {}

    async def run(self, payload: Mapping[str, Any], trajectory_id: str) -> dict[str, Any]:
        """Return the fields of the outcome. Ends the process if so many threads hang that no rollout can begin."""
        task = asyncio.ensure_future(self._engine.run(payload, trajectory_id))
        self._tasks[trajectory_id] = task
        try:
            return (await task).to_fields()
        except UnavailableError as error:
            sys.stderr.write(f"{describe_error(error)}\n")
            os._exit(1)  # and the actor is replaced
        except BaseException as error:  # also that `cancel` was called
            return RolloutOutcome.broken(error).to_fields()
        finally:
            del self._tasks[trajectory_id]

    def cancel(self, trajectory_id: str) -> None:
        """Cancel a rollout; nothing if it is over."""
        if task := self._tasks.get(trajectory_id):
            task.cancel()
