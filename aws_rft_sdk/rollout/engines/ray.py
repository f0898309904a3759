"""On a Ray cluster, through ray, which only this module imports."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Mapping
from types import ModuleType, TracebackType
from typing import Any

from aws_rft_sdk._loading import load_callable
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rollout.engines.base import DEADLINE_SECONDS, Engine, RolloutOutcome
from aws_rft_sdk.rollout.engines.local import LocalEngine

_OVERTIME_SECONDS = 30.0
"""Past its deadline, for an actor to report."""


class RayEngine(Engine):
    """Runs rollouts in actors on a cluster, which load the handler by its name.

    An actor that dies fails only the rollouts that it was given, and is replaced. The handler's file and this
    package must be on each node, and the runtime's endpoint must be reachable from there.

    Args:
        reference: The handler, as for `load_callable`.
        workers: Actors; None for one on each CPU of the cluster.
        concurrency: Rollouts in flight in all actors together.
        deadline_seconds: For each rollout; None for no deadline.
        address: Of the cluster, as for `ray.init`; None for `RAY_ADDRESS`, else one on this machine.
    """

    def __init__(
        self,
        reference: str,
        *,
        workers: int | None = None,
        concurrency: int = 16,
        deadline_seconds: float | None = DEADLINE_SECONDS,
        address: str | None = None,
    ) -> None:
        self._reference = reference
        self._workers = workers
        self._concurrency = concurrency
        self._deadline_seconds = deadline_seconds
        self._address = address
        self._ray: ModuleType | None = None
        self._ours = False
        self._new_actor: Callable[[], Any] = lambda: None
        self._actors: list[Any] = []
        self._loads: list[int] = []

    async def __aenter__(self) -> RayEngine:
        """Connect to the cluster, or start one, and wait until the actors have loaded the handler.

        Raises:
            ConfigurationError: ray is missing, the cluster cannot be reached, or an actor cannot load the handler.
        """
        self._ray = ray = _import_ray()
        try:
            if not ray.is_initialized():
                ray.init(
                    address=self._address, log_to_driver=False, include_dashboard=False, logging_level=logging.WARNING
                )
                self._ours = True
            count = self._workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
            each = -(-self._concurrency // count) + 1  # one more, for the call that cancels
            # Not restarted by ray: calls that come while it does so would fail without having run.
            actor = ray.remote(max_restarts=0, max_task_retries=0, max_concurrency=max(2, each))(_Actor)
            settings = (self._reference, list(sys.path), self._deadline_seconds)
            self._new_actor = lambda: actor.remote(*settings)
            self._actors = [self._new_actor() for _ in range(count)]
            self._loads = [0] * count
            await asyncio.gather(*[actor.ready.remote() for actor in self._actors])
        except Exception as error:
            await self.__aexit__(None, None, None)
            raise ConfigurationError(f"ray cannot run the handler: {_first_line(error)}") from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Kill the actors, and leave the cluster if this engine joined it."""
        if self._ray is None:
            return
        for actor in self._actors:
            self._ray.kill(actor)
        if self._ours:
            await asyncio.to_thread(self._ray.shutdown)

    async def run(self, payload: Mapping[str, Any], trajectory_id: str) -> RolloutOutcome:
        """Run the handler in the actor with the fewest rollouts. See `Engine.run`."""
        place = self._loads.index(min(self._loads))
        actor = self._actors[place]
        limit = None if self._deadline_seconds is None else self._deadline_seconds + _OVERTIME_SECONDS
        self._loads[place] += 1
        answer = asyncio.ensure_future(_resolved(actor.run.remote(dict(payload), trajectory_id)))
        try:
            await asyncio.wait([answer], timeout=limit)
            if not answer.done():
                self._replace(place, actor)
                raise TimeoutError("the actor did not report at its deadline, and was killed")
            return RolloutOutcome.of_fields(answer.result())
        except asyncio.CancelledError:
            actor.cancel.remote(trajectory_id)
            await asyncio.wait([answer], timeout=_OVERTIME_SECONDS)
            raise
        except Exception as error:
            if self._ray is not None and isinstance(error, self._ray.exceptions.ActorDiedError):
                self._replace(place, actor)
            text = f"{type(error).__name__}: {_first_line(error)}"
            return RolloutOutcome.broken(text, lost=True)
        finally:
            self._loads[place] -= 1
            answer.cancel()

    def _replace(self, place: int, actor: Any) -> None:
        if self._ray is not None and self._actors[place] is actor:
            self._ray.kill(actor)
            self._actors[place] = self._new_actor()  # calls wait until it is there


async def _resolved(reference: Any) -> Any:
    return await reference


class _Actor:
    """What runs in a process of the cluster."""

    def __init__(self, reference: str, path: list[str], deadline_seconds: float | None) -> None:
        sys.path.extend(entry for entry in path if entry not in sys.path)
        self._engine = LocalEngine(load_callable(reference), deadline_seconds=deadline_seconds)
        self._tasks: dict[str, asyncio.Task[RolloutOutcome]] = {}

    async def ready(self) -> bool:
        return True

    async def run(self, payload: dict[str, Any], trajectory_id: str) -> dict[str, Any]:
        task = asyncio.ensure_future(self._engine.run(payload, trajectory_id))
        self._tasks[trajectory_id] = task
        try:
            await asyncio.wait([task])
            if task.cancelled():
                return RolloutOutcome.broken(asyncio.CancelledError()).to_fields()
            return task.result().to_fields()
        except Exception as error:
            return RolloutOutcome.broken(error).to_fields()
        finally:
            del self._tasks[trajectory_id]

    async def cancel(self, trajectory_id: str) -> None:
        if task := self._tasks.get(trajectory_id):
            task.cancel()


def _import_ray() -> ModuleType:
    try:
        import ray
    except ImportError as error:
        raise ConfigurationError("the ray engine needs ray; install aws-rft-sdk[ray]") from error
    module: ModuleType = ray
    return module


def _first_line(error: Exception) -> str:
    # Errors of ray quote the whole traceback of the actor; the cause is their last line.
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
