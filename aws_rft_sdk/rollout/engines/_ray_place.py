"""One actor on a Ray cluster, seen from the driver, and the code that Ray sends to its node."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from aws_rft_sdk import __version__
from aws_rft_sdk._hosts import is_loopback_url
from aws_rft_sdk.errors import AgentUnreachableError, ConfigurationError, UnavailableError
from aws_rft_sdk.rollout.engines._ray_address import SERVE_RUNTIME, is_here

OVERTIME_SECONDS = 30.0
"""Past its deadline, for an actor to report."""
_QUIET_SECONDS = 1.0
"""An actor that was silent for longer is asked whether it lives before it gets work."""
_LONGEST_TEXT = 1000


class NeverRan(Exception):
    """The actor has certainly not begun the rollout."""


class Place:
    """One actor."""

    def __init__(self, ray: ModuleType, actor: Any) -> None:
        self._ray = ray
        self._actor = actor
        self._node = ""
        self._is_here = True
        self._heard = 0.0
        self.completed = False
        """Whether it has completed a rollout."""
        self.ended = asyncio.Event()

    async def start(self, settings: Mapping[str, Any]) -> None:
        """Wait until it has loaded the handler.

        Raises:
            ConfigurationError: Its node lacks something. The message names the node.
            UnavailableError: It could not be started.
        """
        try:
            self._node, problem = await _result(self._actor.begin.remote(__version__, dict(settings)))
        except self._ray.exceptions.RuntimeEnvSetupError as error:
            raise ConfigurationError(f"a node cannot be prepared for the handler: {in_one_line(error)}") from error
        except self._ray.exceptions.RayError as error:
            raise UnavailableError(f"an actor could not be started: {in_one_line(error)}") from error
        if problem is not None:
            self.kill()
            raise ConfigurationError(f"node {self._node} cannot run the handler: {problem}")
        self._is_here = is_here(self._node)
        self._heard = time.monotonic()

    async def check(self, payload: Mapping[str, Any]) -> None:
        """Make sure that the actor can take a rollout. It is asked if nothing was heard from it for a second.

        Raises:
            NeverRan: The actor has ended.
            UnavailableError: The rollout would report to a runtime that only this machine can reach.
        """
        endpoint = payload.get("metadata", {}).get("endpoint")
        if not self._is_here and endpoint and is_loopback_url(endpoint):
            raise UnavailableError(f"node {self._node} cannot reach the runtime at {endpoint}. {SERVE_RUNTIME}")
        if time.monotonic() - self._heard < _QUIET_SECONDS:
            return
        try:
            await _result(self._actor.ping.remote())
            self._heard = time.monotonic()
        except self._ray.exceptions.RayError as error:
            raise NeverRan(self._end(in_one_line(error))) from error

    async def run(self, payload: dict[str, Any], trajectory_id: str, limit_seconds: float | None) -> Mapping[str, Any]:
        """Return the fields of the outcome.

        Raises:
            AgentUnreachableError: The actor has ended, or has not reported in time and was killed.
        """
        answer = asyncio.ensure_future(_result(self._actor.run.remote(payload, trajectory_id)))
        try:
            await asyncio.wait([answer], timeout=limit_seconds)
            if not answer.done():
                raise AgentUnreachableError(self._end("it did not report at its deadline, and was killed"))
            fields: Mapping[str, Any] = answer.result()
            self._heard, self.completed = time.monotonic(), True
            return fields
        except asyncio.CancelledError:
            self._actor.cancel.remote(trajectory_id)
            await asyncio.wait([answer], timeout=OVERTIME_SECONDS)
            raise
        except self._ray.exceptions.RayError as error:
            raise AgentUnreachableError(self._end(in_one_line(error))) from error
        finally:
            answer.cancel()

    def kill(self) -> None:
        """End the actor. Nothing happens if it is dead."""
        self._ray.kill(self._actor)

    def _end(self, why: str) -> str:
        """Give the actor up, and return why."""
        self.kill()  # one that is only out of reach would go on, and report a rollout that is run again
        self.ended.set()
        return f"the actor on node {self._node} has ended: {why}"


def actor_class() -> type[Any]:
    """Return the class of the actors.

    Ray sends the code of a class that a function defines, and of other classes only the name. So an actor begins also
    on a node without this package, and says so.
    """

    class RolloutActor:
        async def begin(self, version: str, settings: dict[str, Any]) -> tuple[str, str | None]:
            """Load the handler. Returns the node's address, and what the node lacks, None for nothing."""
            import importlib

            import ray

            node = str(ray.util.get_node_ip_address())
            try:
                found = importlib.import_module("aws_rft_sdk").__version__
            except ImportError as error:
                return node, f"it cannot import aws_rft_sdk ({error}). Install aws-rft-sdk=={version} there"
            if found != version:
                return (
                    node,
                    f"it has aws-rft-sdk {found}, and this machine has {version}. Install the same version on both",
                )
            try:
                actor = importlib.import_module("aws_rft_sdk.rollout.engines._ray_actor")
                self._rollouts = actor.ActorRollouts(**settings)
            except Exception as error:
                advice = "Packages can be named with --requirements FILE, and files belong into the handler's project"
                return node, f"{type(error).__name__}: {error}. {advice}"
            return node, None

        async def ping(self) -> None:
            pass

        async def run(self, payload: dict[str, Any], trajectory_id: str) -> Any:
            return await self._rollouts.run(payload, trajectory_id)

        async def cancel(self, trajectory_id: str) -> None:
            self._rollouts.cancel(trajectory_id)

    return RolloutActor


def in_one_line(error: Exception) -> str:
    """Return the text of an error of Ray without its table of ids. Its middle is left out if it is long."""
    text = " ".join(line.strip() for line in str(error).splitlines() if not line.startswith("\t"))
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT // 2]} ... {text[-_LONGEST_TEXT // 2 :]}"


async def _result(reference: Any) -> Any:
    return await reference
