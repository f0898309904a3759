"""Makes the engine that a command line asks for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from aws_rft_sdk._loading import absolute_reference
from aws_rft_sdk.agent_rft import ROLLOUT_CONCURRENCY, ROLLOUT_STARTS_PER_SECOND
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.lifecycle.calling import DEADLINE_SECONDS, Handler
from aws_rft_sdk.rollout.access import Access
from aws_rft_sdk.rollout.engines._ray_address import check_cluster_reach
from aws_rft_sdk.rollout.engines.agentcore import RUNTIME_ARN, AgentCoreEngine
from aws_rft_sdk.rollout.engines.base import Engine
from aws_rft_sdk.rollout.engines.http import HttpEngine
from aws_rft_sdk.rollout.engines.local import LocalEngine
from aws_rft_sdk.rollout.engines.process import ProcessEngine
from aws_rft_sdk.rollout.engines.ray import RayEngine
from aws_rft_sdk.settings import worker_key

ENGINES = ("auto", "local", "process", "ray", "http", "agentcore")
CONCURRENCY = 16

_DEPLOYED = ("http", "agentcore")
_RUNS = {"http": "the worker at a URL", "agentcore": "the AgentCore runtime of an ARN"}
_HERE = ("localhost", "127.0.0.1", "::1", "0.0.0.0", "::")  # noqa: S104 - what a worker announces, not listened on


@dataclass(frozen=True)
class EngineChoice:
    """Which engine runs the rollouts, and how."""

    name: str
    """One of `ENGINES`, never "auto"."""
    handler: str
    """Reference of a function, URL of a worker, or ARN of a runtime."""
    concurrency: int
    starts_per_second: float | None
    deadline_seconds: float | None = DEADLINE_SECONDS
    workers: int | None = None
    qualifier: str | None = None
    address: str | None = None
    requirements: Path | None = None
    show_output: bool = False

    @classmethod
    def of(
        cls,
        name: str,
        handler: str,
        *,
        concurrency: int | None = None,
        starts_per_second: float | None = None,
        deadline_seconds: float | None = DEADLINE_SECONDS,
        workers: int | None = None,
        qualifier: str | None = None,
        address: str | None = None,
        requirements: Path | None = None,
        show_output: bool = False,
    ) -> EngineChoice:
        """Choose an engine; what is None has the engine's default, which for deployed agents is the service's.

        Raises:
            ConfigurationError: The handler or an option is for another engine.
        """
        fitting = _fitting(handler)
        if name == "auto":
            name = fitting
        if fitting != (name if name in _DEPLOYED else "local"):
            raise ConfigurationError(f"the engine {name} runs {_RUNS.get(name, 'a function')}, not {handler}")
        if workers is not None and name not in ("process", "ray"):
            raise ConfigurationError(f"--workers is for the engines process and ray, not for {name}")
        if qualifier is not None and name != "agentcore":
            raise ConfigurationError(f"--qualifier is for the engine agentcore, not for {name}")
        for option, given in {"address": address, "requirements": requirements, "show-output": show_output}.items():
            if given and name != "ray":
                raise ConfigurationError(f"--{option} is for the engine ray, not for {name}")
        deployed = name in _DEPLOYED
        if starts_per_second is None and deployed:
            starts_per_second = ROLLOUT_STARTS_PER_SECOND
        concurrency = concurrency or (ROLLOUT_CONCURRENCY if deployed else CONCURRENCY)
        own = (workers, qualifier, address, requirements, show_output)
        return cls(name, handler, concurrency, starts_per_second, deadline_seconds, *own)

    def check_reach(self, endpoint: str | None) -> None:
        """Refuse an agent on another machine whose rollouts would name a runtime on this one.

        Args:
            endpoint: The runtime that is given; None for one of our own, on loopback.

        Raises:
            ConfigurationError: It could not reach the runtime.
        """
        if self.name == "ray":
            check_cluster_reach(self.address, endpoint)
        elsewhere = self.name == "agentcore" or (
            self.name == "http" and (urlsplit(self.handler).hostname or "") not in _HERE
        )
        if elsewhere and endpoint is None:
            raise ConfigurationError(
                f"{self.handler} cannot reach a runtime on this machine; give --endpoint with one that it can reach"
            )

    def make(self, fn: Handler | None, access: Access) -> Engine:
        """Make the engine.

        Args:
            fn: The loaded handler; None for a deployed agent.
            access: The runtime.

        Raises:
            ConfigurationError: It cannot be made.
        """
        deadline = self.deadline_seconds
        if self.name == "http":
            key = worker_key()
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            return HttpEngine(self.handler, access.observe, deadline_seconds=deadline, headers=headers)
        if self.name == "agentcore":
            return AgentCoreEngine(
                self.handler,
                access.observe,
                qualifier=self.qualifier,
                concurrency=self.concurrency,
                deadline_seconds=deadline,
            )
        reference = absolute_reference(self.handler)
        if self.name == "process":
            return ProcessEngine(reference, workers=self.workers or os.cpu_count() or 1, deadline_seconds=deadline)
        if self.name == "ray":
            return RayEngine(
                reference,
                workers=self.workers,
                concurrency=self.concurrency,
                deadline_seconds=deadline,
                address=self.address,
                requirements=self.requirements,
                show_output=self.show_output,
                endpoint=access.endpoint,
            )
        if fn is None:
            raise ConfigurationError(f"the engine {self.name} needs a function, not {self.handler}")
        return LocalEngine(fn, deadline_seconds=deadline)


def _fitting(handler: str) -> str:
    if handler.startswith(("http://", "https://")):
        return "http"
    return "agentcore" if RUNTIME_ARN.fullmatch(handler) else "local"
