"""`LocalJobs`: its life, and what its users see of it."""

from __future__ import annotations

import contextlib
import functools
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from aws_rft_sdk._checks import check_number, check_type
from aws_rft_sdk.credentials import Credentials, CredentialSource, Keys
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime._serving import DRAIN_SECONDS, JobServer
from aws_rft_sdk.runtime.auth import Signing, Verifier, key_reader
from aws_rft_sdk.runtime.bedrock.trainers import Trainer
from aws_rft_sdk.runtime.faults import Faults
from aws_rft_sdk.runtime.http_server import ServerThread, make_config
from aws_rft_sdk.runtime.policies import Policy, PolicyFunction, make_policy
from aws_rft_sdk.runtime.sagemaker.agents import Forwarder, Handler, make_agent
from aws_rft_sdk.runtime.sagemaker.app import SIGNING_NAMES, Door, Services
from aws_rft_sdk.runtime.sagemaker.control import Place
from aws_rft_sdk.runtime.sagemaker.objects import Objects
from aws_rft_sdk.runtime.sagemaker.running import Jobs
from aws_rft_sdk.runtime.sagemaker.sessions import Sessions
from aws_rft_sdk.runtime.sagemaker.store import Store
from aws_rft_sdk.runtime.server import DEFAULT_REGION, LocalRuntime

JobsAuth = Literal["any", "sigv4", "none"]

_MAX_SPEED = 100_000
_MAX_CONCURRENCY = 1_000


class LocalJobs(JobServer[Store]):
    """A stand-in for SageMaker's multi-turn RL jobs on this machine. Jobs really run.

    Use it as a context manager, or call `start` and `stop`. It listens on loopback only. One port serves SageMaker's
    operations on jobs, S3, CloudWatch Logs, MLflow, and what else submitting a job calls. A `LocalRuntime` beside it
    serves the policy to the agent and takes the rewards. `docs/local-jobs.md` lists how it answers where the service's
    pages say nothing.

    Args:
        handler: The agent: a decorated handler, called in this process with each payload.
        agent_url: The agent: payloads are posted to this URL, as AgentCore posts them to `/invocations`.
        forwarder: The agent: a Lambda handler that forwards rollouts, called in this process with event and context.
        policy: Answers inference: a policy object, or a function as for `CallablePolicy`. None only with a trainer.
        trainer: Learns between the steps. None: nothing learns, so the curves stay flat.
        auth: "any" verifies every signature that arrives, and accepts unsigned calls. "sigv4" demands signatures, and
            "none" verifies nothing. MLflow always demands the session that its presigned URL opens.
        port: Port to listen on. 0 for any free port.
        db: Path of the database file. A missing file is created. Jobs of an existing one that have not ended go on with
            the step after their last complete one. ":memory:" for a database that ends with this object.
        speed: The service's clocks run so much faster: rollouts are started more often, and time limits are shorter.
        concurrency: Rollouts at a time. None for the `rollout_max_concurrency` of each job.
        faults: Trouble to make on purpose. "jobs" is the route of this server. The other routes are those of the
            runtime that serves the policy. None for none.
        credentials: Signatures must be made with these: `Keys`, `Credentials`, or a botocore or boto3 session. None:
            those made with this process's credentials are verified. Of those made with others only the form, scope and
            age are.
        region: The region of the jobs. Signatures must be made for it.
        clock: Returns seconds since 1970.

    Raises:
        ConfigurationError: An argument has a value that it cannot have. The text names the argument.

    Concurrency: all methods are safe from any thread.
    """

    def __init__(
        self,
        handler: Handler | None = None,
        *,
        agent_url: str | None = None,
        forwarder: Forwarder | None = None,
        policy: Policy | PolicyFunction | None = None,
        trainer: Trainer | None = None,
        auth: JobsAuth = "any",
        port: int = 0,
        db: str | Path = ":memory:",
        speed: float = 1.0,
        concurrency: int | None = None,
        faults: Faults | None = None,
        credentials: Keys | Credentials | CredentialSource | None = None,
        region: str = DEFAULT_REGION,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if auth not in get_args(JobsAuth):
            raise ConfigurationError(f"auth must be one of {', '.join(get_args(JobsAuth))}, not {auth!r:.80}")
        check_type("db", db, (str, Path), 'the path of a file, or ":memory:"')
        check_type("faults", faults, (Faults, type(None)), 'a Faults, for example Faults(Fault("reset")), or None')
        check_type("region", region, str, "the name of an AWS region")
        check_number("speed", speed, low=0.001, high=_MAX_SPEED)
        if concurrency is not None:
            check_number("concurrency", concurrency, low=1, high=_MAX_CONCURRENCY, whole=True)
        self._make_agent = functools.partial(make_agent, handler, agent_url, forwarder)
        self._make_agent()  # tells now what is wrong
        if policy is None and trainer is None:
            raise ConfigurationError("policy is missing: give the policy that answers the agent, or a trainer with one")
        self._policy, self._trainer = make_policy(policy), trainer
        self._runtime = LocalRuntime(
            self._policy,
            auth="none" if auth == "none" else "any",
            region=region,
            credentials=credentials,
            faults=faults,
            clock=clock,
        )
        keys = key_reader(credentials)
        self._verifiers = {
            # Calls of STS may be signed for its global endpoint's region.
            name: Verifier(
                auth,
                None if name == "sts" else region,
                keys,
                clock,
                signing=Signing(name, name, f"{name}.amazonaws.com", f"{name}-api-key-", is_s3=name == "s3"),
                strangers=credentials is None,
            )
            for name in SIGNING_NAMES
        }
        self._db, self._speed, self._concurrency, self._faults = db, speed, concurrency, faults
        self._place, self._clock = Place(region, lambda: self.endpoint), clock
        super().__init__(port)

    def _open(self, undo: contextlib.ExitStack) -> Store:
        store = Store(self._db, self._clock)
        undo.callback(store.close)
        self._runtime.start()
        undo.callback(self._runtime.stop)
        return store

    def _make_server(self, listener: socket.socket, store: Store) -> ServerThread:
        objects = Objects(store)
        jobs = Jobs(
            store,
            objects,
            self._runtime,
            self._make_agent(),
            self._policy,
            self._trainer,
            speed=self._speed,
            concurrency=self._concurrency,
        )

        def die() -> None:
            jobs.close()
            server.die()

        async def close() -> None:
            await jobs.aclose()

        services = Services(store, objects, jobs, Sessions(self._clock), self._place)
        door = Door(services.by_name(), self._verifiers, self._faults, die)
        config = make_config(door, drain_seconds=DRAIN_SECONDS, certfile=None, keyfile=None)
        server = ServerThread(config, listener, lambda loop: jobs.go_on(), close)
        return server

    def _close(self) -> None:
        self._runtime.stop()

    @property
    def runtime(self) -> LocalRuntime:
        """Serves the policy to the agent, and takes the rewards. Payloads name its endpoint."""
        return self._runtime

    @property
    def region(self) -> str:
        """The region of the jobs."""
        return self._place.region
