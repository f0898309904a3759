"""`LocalBedrock`: its life, and what its users see of it."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from aws_rft_sdk._checks import check_number, check_type
from aws_rft_sdk.credentials import Credentials, CredentialSource, Keys
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime._serving import DRAIN_SECONDS, JobServer
from aws_rft_sdk.runtime.auth import AuthMode, Signing, Verifier, key_reader
from aws_rft_sdk.runtime.bedrock.app import Api, Door
from aws_rft_sdk.runtime.bedrock.functions import MAX_TIMEOUT_SECONDS, Functions, LambdaHandler
from aws_rft_sdk.runtime.bedrock.grading import GRADER_INPUTS, GraderInput
from aws_rft_sdk.runtime.bedrock.models import TUNABLE_MODELS, Models
from aws_rft_sdk.runtime.bedrock.store import Store
from aws_rft_sdk.runtime.bedrock.trainers import Trainer
from aws_rft_sdk.runtime.bedrock.training import Jobs
from aws_rft_sdk.runtime.faults import Faults
from aws_rft_sdk.runtime.http_server import ServerThread, make_config
from aws_rft_sdk.runtime.policies import Policy, PolicyFunction, make_policy

BedrockAuth = Literal["any", "token", "sigv4", "none"]

DEFAULT_REGION = "us-west-2"
_MODES: dict[BedrockAuth, AuthMode] = {"any": "any", "token": "bearer", "sigv4": "sigv4", "none": "none"}
_MANTLE = Signing("bedrock-mantle", "bedrock", "bedrock.amazonaws.com", "bedrock-api-key-")
_LAMBDA = Signing("lambda", "lambda", "lambda.amazonaws.com", "lambda-api-key-")
_MAX_GROUP = 64


class LocalBedrock(JobServer[Store]):
    """A stand-in for fine-tuning on Bedrock's OpenAI-compatible API on this machine. Jobs really run.

    Use it as a context manager, or call `start` and `stop`. It listens on loopback only. `docs/jobs.md` lists how it
    answers where the service's pages say nothing.

    Args:
        policy: Answers inference and is sampled by jobs: a policy object, or a function as for `CallablePolicy`. The
            chat requests of a job have a `seed`, which differs for each sample and is the same in every run. None only
            with a trainer.
        functions: Lambda handlers by name or ARN, for jobs and for Lambda's Invoke.
        auth: "any" verifies every signature and every short-term token that arrives, and accepts calls with another
            key or none. "token" and "sigv4" demand that form. Lambda's Invoke is then signed with SigV4 in both cases.
            "none" verifies nothing.
        trainer: Learns between the steps. None: nothing learns, so the curves stay flat, and metrics that only a
            trainer knows (`actor_entropy`, `actor_pg_loss`, `actor_grad_norm`) are null.
        db: Path of the database file. A missing file is created. Jobs of an existing one that have not ended go on with
            the step after their last complete one. ":memory:" for a database that ends with this object.
        faults: Trouble to make on purpose. The routes are "files", "jobs", "functions" and "inference". None for none.
        port: Port to listen on. 0 for any free port.
        group: Samples of each prompt in a step.
        grader_input: Where graders find the reference answer. See `GraderInput`.
        function_timeout_seconds: How long an invocation of a function may take.
        models: Ids of the models that can be called and tuned.
        newest_first: Whether events and checkpoints are listed newest first. The service's order is not documented.
        credentials: Signatures and tokens must be made with these: `Keys`, `Credentials`, or a botocore or boto3
            session. None: those made with this process's credentials are verified. Of those made with others only the
            form, scope and age are.
        region: The region that signatures and tokens must be made for. Lambda's Invoke may be signed for any.
        clock: Returns seconds since 1970.

    Raises:
        ConfigurationError: An argument has a value that it cannot have. The text names the argument.

    Concurrency: all methods are safe from any thread.
    """

    def __init__(
        self,
        policy: Policy | PolicyFunction | None = None,
        *,
        functions: Mapping[str, LambdaHandler] | None = None,
        auth: BedrockAuth = "any",
        trainer: Trainer | None = None,
        db: str | Path = ":memory:",
        faults: Faults | None = None,
        port: int = 0,
        group: int = 8,
        grader_input: GraderInput = "metadata",
        function_timeout_seconds: float = 60.0,
        models: Sequence[str] = TUNABLE_MODELS,
        newest_first: bool = False,
        credentials: Keys | Credentials | CredentialSource | None = None,
        region: str = DEFAULT_REGION,
        clock: Callable[[], float] = time.time,
    ) -> None:
        for name, value, known in (
            ("auth", auth, get_args(BedrockAuth)),
            ("grader_input", grader_input, GRADER_INPUTS),
        ):
            if value not in known:
                raise ConfigurationError(f"{name} must be one of {', '.join(known)}, not {value!r:.80}")
        check_type("db", db, (str, Path), 'the path of a file, or ":memory:"')
        check_type("faults", faults, (Faults, type(None)), 'a Faults, for example Faults(Fault("reset")), or None')
        check_number("group", group, low=1, high=_MAX_GROUP, whole=True)
        check_number("function_timeout_seconds", function_timeout_seconds, low=0.001, high=MAX_TIMEOUT_SECONDS)
        self._functions = Functions(functions or {}, timeout_seconds=function_timeout_seconds, region=region)
        self._policy = make_policy(policy)
        self._trainer = trainer
        self._models = tuple(models)
        self._group, self._grader_input, self._newest_first = group, grader_input, newest_first
        keys = key_reader(credentials)
        strangers = credentials is None
        mode = _MODES[auth]
        self._verifiers = (
            Verifier(mode, region, keys, clock, signing=_MANTLE, strangers=strangers),
            Verifier("sigv4" if mode == "bearer" else mode, None, keys, clock, signing=_LAMBDA, strangers=strangers),
        )
        self._db, self._faults, self._clock, self._region = db, faults, clock, region
        super().__init__(port)

    def _open(self, undo: contextlib.ExitStack) -> Store:
        return Store(self._db, self._clock)

    def _make_server(self, listener: socket.socket, store: Store) -> ServerThread:
        models = Models(self._policy, self._trainer, store, self._models)
        jobs = Jobs(store, models, self._functions, self._trainer, group=self._group, grader_input=self._grader_input)
        api = Api(store, jobs, models, newest_first=self._newest_first)

        def die() -> None:
            jobs.stop()
            server.die()

        door = Door(api.make_app(), self._functions, self._verifiers, self._faults, die)
        config = make_config(door, drain_seconds=DRAIN_SECONDS, certfile=None, keyfile=None)

        async def close() -> None:
            jobs.stop()
            self._functions.close()
            await models.aclose()

        server = ServerThread(config, listener, lambda loop: jobs.go_on(), close)
        return server

    @property
    def base_url(self) -> str:
        """The `base_url` of OpenAI clients. Ends in `/v1`.

        Raises:
            RuntimeError: It was not started.
        """
        return f"{self.endpoint}/v1"

    @property
    def region(self) -> str:
        """The region that signatures and tokens must be made for."""
        return self._region
