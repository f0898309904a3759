"""On a Ray cluster, through ray. Besides the code that is sent to the nodes, only this module imports ray."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk.errors import AgentUnreachableError, ConfigurationError, UnavailableError
from aws_rft_sdk.lifecycle.calling import DEADLINE_SECONDS
from aws_rft_sdk.lifecycle.executor import in_sdk_thread
from aws_rft_sdk.lifecycle.outcomes import RolloutOutcome
from aws_rft_sdk.rollout.engines._ray_address import HERE, cluster_address, knock
from aws_rft_sdk.rollout.engines._ray_place import OVERTIME_SECONDS, NeverRan, Place, actor_class, in_one_line
from aws_rft_sdk.rollout.engines._ray_project import Project, read_requirements
from aws_rft_sdk.rollout.engines.base import Engine
from aws_rft_sdk.rollout.engines.places import Places
from aws_rft_sdk.settings import carried

logger = logging.getLogger(__name__)

START_SECONDS = 600.0
"""For the first actor. A cluster may have to start a node first, and pip to install packages there."""
PATIENCE_SECONDS = 40.0
"""Ray ends this process 60 s after the head node is gone, without a word. The run ends before that, with an error."""
_WATCH_SECONDS = 2.0
_BACKOFF = Backoff(base_seconds=0.5, cap_seconds=30.0)


class RayEngine(Engine):
    """Runs rollouts in actors on a cluster, one CPU for each actor.

    The handler's project is sent to the nodes. Each node needs this package in the same version, and must reach the
    runtime. Actors that die, and those of nodes that die, are replaced on any node with a free CPU. Rollouts that such
    an actor was running are lost. Rollouts that it had not received go to another actor.

    In a process that has called `ray.init` already, that cluster is used. Then the nodes have what its `runtime_env`
    sends them.

    Args:
        reference: The handler, as for `load_callable`.
        workers: Actors at most. They wait until the cluster has a free CPU for each, and so let an autoscaler add
            nodes. None for one on each CPU that is free, also on nodes that join later.
        concurrency: Rollouts in flight in all actors together.
        deadline_seconds: For each rollout; None for no deadline.
        address: Of the cluster, as for `ray.init`; None for `RAY_ADDRESS`, else one is started on this machine.
        requirements: A requirements.txt or pyproject.toml. pip installs these packages on each node, without changing
            the node's own. None for what the nodes have.
        show_output: Whether the handlers' output is shown here.
        endpoint: The runtime that you named, so that actors trust the payloads that name it and send it the key. None
            for what the environment says.
        patience_seconds: How long actors that die while they start are started again, and a run goes on in which no
            actor works.
        overtime_seconds: Past the deadline, for an actor to report. One that does not even do that is killed.
    """

    def __init__(
        self,
        reference: str,
        *,
        workers: int | None = None,
        concurrency: int = 16,
        deadline_seconds: float | None = DEADLINE_SECONDS,
        address: str | None = None,
        requirements: Path | None = None,
        show_output: bool = False,
        endpoint: str | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
        overtime_seconds: float = OVERTIME_SECONDS,
    ) -> None:
        self._reference = reference
        self._workers = workers
        self._concurrency = concurrency
        self._deadline_seconds = deadline_seconds
        self._limit_seconds = None if deadline_seconds is None else deadline_seconds + overtime_seconds
        self._address = cluster_address(address)
        self._requirements = None if requirements is None else read_requirements(requirements)
        self._show_output = show_output
        self._endpoint = endpoint
        self._ray: ModuleType | None = None
        self._ours = False
        self._new_place: Callable[[], Place]
        self._places: Places[Place] = Places(patience_seconds=patience_seconds)
        self._keepers: list[asyncio.Task[None]] = []
        self._kept: set[Place] = set()
        self._working = 0
        """Actors that take rollouts."""
        self._patience_seconds = patience_seconds
        self._hopeless = 0
        """Keepers that cannot start an actor."""
        self._first: asyncio.Future[None]

    async def __aenter__(self) -> RayEngine:
        """Connect to the cluster, or start one, and wait until an actor has loaded the handler.

        Raises:
            ConfigurationError: ray is missing, the project is too large, or no node can load the handler.
            UnavailableError: The cluster cannot be reached, or no actor could be started.
        """
        self._ray = ray = _import_ray()
        self._first = asyncio.get_running_loop().create_future()
        try:
            settings = await self._connect(ray)
            options = {"num_cpus": 1, "scheduling_strategy": "SPREAD", "max_concurrency": self._concurrency + 8}
            # Not restarted by ray: calls that come while it does so would fail without having run.
            remote = ray.remote(max_restarts=0, max_task_retries=0, **options)(actor_class())
            self._new_place = lambda: Place(ray, remote.remote())
            for _ in range(self._workers or max(1, _free_cpus(ray))):
                self._keepers.append(asyncio.create_task(self._keep(settings)))
            if self._workers is None:
                self._keepers.append(asyncio.create_task(self._grow(ray, settings)))
            await self._wait_for_the_first()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Kill the actors, and leave the cluster if this engine joined it."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        if self._ours and self._ray is not None:
            # It ends the actors too. Killing one that is not started yet would wait for a head node that is gone.
            # In this thread: if the loop dropped a reference to a result meanwhile, Ray would end the whole process.
            self._ray.shutdown()
        else:
            for place in self._kept:
                place.kill()

    async def run(self, payload: Mapping[str, Any], trajectory_id: str) -> RolloutOutcome:
        """Run the handler in the actor with the fewest rollouts. See `Engine.run`.

        Raises:
            UnavailableError: No actor has worked for `patience_seconds`, or a node cannot reach the runtime.
        """
        while True:
            place = await self._places.acquire()
            failure: str | None = None
            try:
                await place.check(payload)
                return RolloutOutcome.of_fields(await place.run(dict(payload), trajectory_id, self._limit_seconds))
            except NeverRan as error:
                failure = str(error)
            except AgentUnreachableError as error:
                failure = str(error)
                return RolloutOutcome.broken(error, lost=True)
            finally:
                self._places.release(place, failure)
            logger.warning("trajectory_id=<%s>, error=<%s> | dispatched again", trajectory_id, failure)

    # --- the cluster ---

    async def _connect(self, ray: ModuleType) -> dict[str, Any]:
        """Return what actors are told: the arguments of `ActorRollouts`."""
        settings = {
            "reference": self._reference,
            "import_paths": list(sys.path),
            "deadline_seconds": self._deadline_seconds,
            "settings": carried(self._endpoint),
        }
        if ray.is_initialized():
            if self._requirements is not None:
                raise ConfigurationError("requirements= is for a cluster that this engine joins, not after ray.init")
            return settings
        await in_sdk_thread(knock, self._address)
        project = None if self._address == HERE else Project.of(self._reference)
        with tempfile.TemporaryDirectory(prefix="rft-ray-") as folder:
            env: dict[str, Any] = {"pip": self._requirements} if self._requirements else {}
            if project is not None:
                settings.update(reference=project.reference, import_paths=list(project.import_paths))
                archive = Path(folder) / "project.zip"
                await in_sdk_thread(project.pack, archive)
                env["working_dir"] = str(archive)
            self._init(ray, env)
        return settings

    def _init(self, ray: ModuleType, env: dict[str, Any]) -> None:
        options: dict[str, Any] = {"address": self._address, "runtime_env": env, "log_to_driver": self._show_output}
        if self._address == HERE:
            options.update(include_dashboard=False, num_cpus=self._workers)
        # Ray makes SIGTERM end the process at once. What it means is the caller's decision.
        on_sigterm = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(logging_level=logging.WARNING, **options)
            self._ours = True
        except Exception as error:
            raise UnavailableError(f"the Ray cluster {self._address} cannot be used: {in_one_line(error)}") from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_sigterm)

    # --- the actors ---

    async def _keep(self, settings: Mapping[str, Any]) -> None:
        """Keep one actor: start another one whenever it ends, after a while if it has completed no rollout."""
        failures, began, hopeless = 0, time.monotonic(), False
        while True:
            place = self._new_place()
            self._kept.add(place)
            try:
                await place.start(settings)
                await self._serve(place)
            except (ConfigurationError, UnavailableError) as error:
                # Another node may do what a node that died could not. None has what the first one's project lacks.
                if isinstance(error, ConfigurationError) or time.monotonic() - began > self._patience_seconds:
                    self._hopeless += not hopeless
                    hopeless = True
                self._not_started(error)
            self._kept.discard(place)
            failures = 0 if place.completed else failures + 1
            await asyncio.sleep(_BACKOFF.delay(failures) if failures else 0)

    async def _serve(self, place: Place) -> None:
        """Give a place rollouts until it ends."""
        if not self._first.done():
            self._first.set_result(None)
        self._places.add(place)
        self._working += 1
        try:
            await place.ended.wait()
        finally:
            self._working -= 1
            self._places.remove(place)

    def _not_started(self, error: Exception) -> None:
        if not self._first.done() and self._hopeless == self._size:
            self._first.set_exception(error)
        else:
            logger.warning("error=<%s> | an actor could not be started; it is tried again", error)

    @property
    def _size(self) -> int:
        """Actors that there should be."""
        return len(self._keepers) - (self._workers is None)

    async def _wait_for_the_first(self) -> None:
        await asyncio.wait([self._first], timeout=START_SECONDS)
        if not self._first.done():
            raise UnavailableError(
                f"no actor has begun on the Ray cluster within {START_SECONDS:g} s: no node has a free CPU, or pip "
                "still installs packages. `ray status` shows which"
            )
        self._first.result()

    async def _grow(self, ray: ModuleType, settings: Mapping[str, Any]) -> None:
        """Use the CPUs that become free, for example those of a node that joins."""
        before = 0
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            # While an actor waits for a CPU or fails to start, further ones would do the same. And the cluster knows
            # only some time after an actor has started that its CPU is not free.
            if self._working == self._size == before:
                for _ in range(await in_sdk_thread(_free_cpus, ray)):
                    self._keepers.append(asyncio.create_task(self._keep(settings)))
            before = self._working


def _free_cpus(ray: ModuleType) -> int:
    return int(ray.available_resources().get("CPU", 0))


def _import_ray() -> ModuleType:
    try:
        import ray
    except ImportError as error:
        raise ConfigurationError("the ray engine needs ray; install aws-rft-sdk[ray]") from error
    module: ModuleType = ray
    return module
