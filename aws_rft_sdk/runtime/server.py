"""The local runtime: its life, and what its users see of it."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from aws_rft_sdk._checks import check_type
from aws_rft_sdk._frozen import JSON
from aws_rft_sdk._listening import listen
from aws_rft_sdk.credentials import Credentials, CredentialSource, Keys
from aws_rft_sdk.errors import ConfigurationError, TrajectoryNotFoundError
from aws_rft_sdk.runtime.address import Address
from aws_rft_sdk.runtime.app import Feedback, make_app
from aws_rft_sdk.runtime.auth import MODES, AuthMode, Verifier, key_reader
from aws_rft_sdk.runtime.capture import CAPTURES, Capture
from aws_rft_sdk.runtime.faults import Faults
from aws_rft_sdk.runtime.http_server import HOST, ServerThread, handling_signals, make_config, wait_for
from aws_rft_sdk.runtime.inference import Inference
from aws_rft_sdk.runtime.limits import RolloutLimits
from aws_rft_sdk.runtime.pages import RuntimePages
from aws_rft_sdk.runtime.policies import Policy, PolicyFunction, make_policy
from aws_rft_sdk.runtime.recordings import write_recordings
from aws_rft_sdk.runtime.rollout_starter import RolloutStarter
from aws_rft_sdk.runtime.showing import Showing
from aws_rft_sdk.runtime.state import Problem, find_problems
from aws_rft_sdk.runtime.trajectories import Trajectories
from aws_rft_sdk.types import InferenceParams, Trajectory, TrajectoryStatus

DEFAULT_REGION = "us-west-2"
DRAIN_SECONDS = 5

_NEVER, _RUNNING, _STOPPED = "not started", "running", "stopped"


class LocalRuntime:
    """A stand-in for the job runtime on this machine: serves inference, records turns, takes rewards.

    Use it as a context manager, or call `start` and `stop`. It serves both generations of the contract.
    `docs/runtime.md` lists how it answers where the contract says nothing.

    Args:
        policy: Answers inference: a policy object, or a function as for `CallablePolicy`. None for no policy. Then
            inference is answered 400, and everything else works.
        db: Path of the database file. A missing file is created, an existing one is continued. ":memory:" for a
            database that ends with this object. One runtime at a time can have a file open.
        auth: "any" verifies every signature and token that arrives, and accepts calls without one. "sigv4" and "bearer"
            demand that form. "none" verifies nothing. With a `key` nothing is signed, so both forms are refused here.
        strict: Whether to refuse what the service refuses, or later fails the job over: inference without the headers
            of a known trajectory, calls for a job of another account, rewards whose number is neither 1 nor the number
            of turns, a reward for a failed trajectory, a span id used for two requests. When not strict, the first
            inference call that names a trajectory creates it. Untracked calls are answered and counted, but not
            recorded.
        host: Address or host name to listen on. "0.0.0.0" for all addresses of this machine, which needs a key.
        port: Port to listen on. 0 for any free port.
        key: Every call but `GET /ping` must present it as `Authorization: Bearer <key>`. If the host is not on loopback
            a key is required, and None stands for `RFT_RUNTIME_KEY`. On loopback None means no key.
        certfile: PEM file of a certificate and its chain, to serve https. Needs `keyfile`.
        keyfile: PEM file of the certificate's private key, without a password.
        public_url: Base URL that payloads name, where agents reach this runtime. None for the host and the port. If the
            host is "0.0.0.0" or "::", that is the address of this machine's default route, else its host name.
        capture: How much of each turn the database keeps. "full" keeps every request and answer as it was. "last" keeps
            of each request what differs from the request before it. Everything can be read back, but bodies of the
            Responses API and streams are not kept as they came. "none" keeps turns, token counts and rewards. Then
            requests and answers stay in memory until the trajectory is sealed, and cannot be exported or replayed.
        credentials: Signatures are verified with these: `Keys`, `Credentials`, or a botocore or boto3 session. None for
            the credentials of this process. No metadata service is asked for them.
        region: The region that signatures must be made for, and that payloads name. None for us-west-2.
        faults: Trouble to make on purpose. None for no trouble.
        limits: What each rollout may use, in turns, tokens or cost. None for no limits.
        client_tokens: Whether a repeated feedback call with the same client token succeeds. The alpha generation
            documents no such thing: pass False to test against a service that answers the repetition with a 409.
        clock: Returns seconds since the epoch. Used for the age of signatures and the creation time of trajectories.

    Raises:
        ConfigurationError: An argument has a value that it cannot have. The text names the argument.

    Concurrency: all methods are safe from any thread, except in an async policy, which runs in the server's event loop.
    """

    def __init__(
        self,
        policy: Policy | PolicyFunction | None = None,
        *,
        db: str | Path = ":memory:",
        auth: AuthMode = "any",
        strict: bool = True,
        host: str = HOST,
        port: int = 0,
        key: str | None = None,
        certfile: str | Path | None = None,
        keyfile: str | Path | None = None,
        public_url: str | None = None,
        capture: Capture = "full",
        credentials: Keys | Credentials | CredentialSource | None = None,
        region: str | None = None,
        faults: Faults | None = None,
        limits: RolloutLimits | None = None,
        client_tokens: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        for name, value, known in (("auth", auth, MODES), ("capture", capture, CAPTURES)):
            if value not in known:
                raise ConfigurationError(f"{name} must be one of {', '.join(known)}, not {value!r:.80}")
        check_type("db", db, (str, Path), 'the path of a file, or ":memory:"')
        if not str(db):
            raise ConfigurationError('db is empty; it must be the path of a file, or ":memory:"')
        check_type("strict", strict, bool, "True or False")
        check_type("client_tokens", client_tokens, bool, "True or False")
        check_type("region", region, (str, type(None)), "the name of an AWS region, or None")
        check_type("faults", faults, (Faults, type(None)), 'a Faults, for example Faults(Fault("reset")), or None')
        check_type(
            "limits", limits, (RolloutLimits, type(None)), "RolloutLimits, for example RolloutLimits(max_turns=8)"
        )
        if not callable(clock):
            raise ConfigurationError(f"clock must be a function without arguments, not {clock!r:.80}")
        self._address = Address(host, port, key, certfile, keyfile, public_url)
        if self._address.key is not None and auth in ("sigv4", "bearer"):
            raise ConfigurationError(
                f"auth={auth!r} and a key contradict each other: both travel in the Authorization header. Drop one"
            )
        self._policy = make_policy(policy)
        self._db = db
        self._auth = auth
        self._strict = strict
        self._port = port
        self._capture = capture
        self._keys = key_reader(credentials)
        self._region = region or DEFAULT_REGION
        self._faults = faults
        self._limits = limits
        self._client_tokens = client_tokens
        self._clock = clock
        self._phase = _NEVER
        self._lock = threading.Lock()
        self._trajectories: Trajectories | None = None
        self._inference: Inference | None = None
        self._starter: RolloutStarter | None = None
        self._server: ServerThread | None = None
        self._stopped = threading.Event()
        self._first = 0
        self._endpoint = ""

    # --- life --------------------------------------------------------------------------------------------------------

    def start(self) -> LocalRuntime:
        """Open the database and begin to serve. Returns this runtime once calls are accepted.

        Raises:
            ConfigurationError: The host is not of this machine, the database cannot be used, or credentials are
                missing. Nothing stays open, and the start may be tried again.
            UnavailableError: The port is in use. Nothing stays open, and the start may be tried again.
            RuntimeError: The runtime was started before.
        """
        with self._lock:
            if self._phase is not _NEVER:
                raise RuntimeError(f"this runtime cannot be started: it is {self._phase}. Make another one")
            if self._auth in ("sigv4", "bearer") and self._keys() is None:
                raise ConfigurationError(
                    f"auth={self._auth!r} needs credentials to verify with, and there are none. Pass credentials=, set "
                    'AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use auth="any"'
                )
            with contextlib.ExitStack() as undo:
                listener = undo.enter_context(contextlib.closing(listen(self._port, self._address.host)))
                trajectories = Trajectories(self._db, self._clock, jobs=[self.default_job_arn], capture=self._capture)
                undo.callback(trajectories.close)
                if self._policy is not None:
                    for entry in trajectories.entries():
                        self._policy.begin(entry.trajectory_id, json.loads(entry.prompt))
                self._serve(listener, trajectories)
                undo.pop_all()
            self._phase = _RUNNING
        return self

    def _serve(self, listener: socket.socket, trajectories: Trajectories) -> None:
        inference = Inference(trajectories, self._policy, strict=self._strict, limits=self._limits)
        port = listener.getsockname()[1]
        endpoint = self._address.url(port)
        starter = RolloutStarter(trajectories, lambda: inference.policy, endpoint, self._region, self.default_job_arn)
        own_hosts = self._address.own_hosts()
        pages = RuntimePages(endpoint, trajectories, self._address.key, own_hosts, lambda: server.should_exit)
        app = make_app(
            Feedback(trajectories, strict=self._strict, client_tokens=self._client_tokens),
            inference,
            Verifier("none" if self._address.key else self._auth, self._region, self._keys, self._clock),
            [*starter.routes(), *Showing(trajectories, own_hosts).routes()],
            self._faults,
            die=lambda: server.die(),
            key=self._address.key,
            pages=pages,
        )
        config = make_config(
            app, drain_seconds=DRAIN_SECONDS, certfile=self._address.certfile, keyfile=self._address.keyfile
        )

        async def close() -> None:
            await pages.aclose()
            await inference.aclose()

        server = ServerThread(config, listener, trajectories.attach, close)
        server.start()
        # A runtime that nobody stopped must not keep its thread and port for the rest of the process.
        weakref.finalize(self, _abandon, server, trajectories)
        self._port, self._endpoint = port, endpoint
        self._trajectories, self._inference, self._starter, self._server = trajectories, inference, starter, server

    def stop(self) -> None:
        """Stop accepting calls, wait up to 5 s for the calls in progress, and release port, connections and database.

        The records can still be read. Safe to repeat, and to call before the start.
        """
        with self._lock:
            if self._phase is not _RUNNING or self._server is None or self._trajectories is None:
                return
            self._phase = _STOPPED
            try:
                self._server.stop()
            finally:
                self._trajectories.close()
                self._stopped.set()

    def restart(self) -> None:
        """Stop, and serve again on the same port with all records, as a service does on an update.

        Calls in progress have 5 s to end. All connections are closed, so clients that keep some find them broken. Also
        brings back a runtime that died of a fault.

        Raises:
            UnavailableError: The port was taken in the meantime. The runtime is stopped then.
            RuntimeError: The runtime is not running.
        """
        with self._lock:
            if self._phase is not _RUNNING or self._server is None or self._trajectories is None:
                raise RuntimeError(f"this runtime cannot be restarted: it is {self._phase}")
            self._server.stop()
            with contextlib.ExitStack() as undo:
                undo.callback(self._trajectories.close)
                undo.callback(setattr, self, "_phase", _STOPPED)
                listener = undo.enter_context(contextlib.closing(listen(self._port, self._address.host)))
                self._serve(listener, self._trajectories)
                undo.pop_all()

    def __enter__(self) -> LocalRuntime:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def serve_forever(self, announce: Callable[[], None] | None = None) -> None:
        """Serve until SIGINT or SIGTERM arrives or another thread calls `stop`, then stop.

        Starts the runtime if it was not started. Signals are handled only in the main thread. Their handlers are
        restored afterwards, so a second signal during the stop ends the process as usual.

        Args:
            announce: Called once calls are accepted and signals are handled.
        """
        try:
            with handling_signals(self._stopped):
                with self._lock:
                    phase = self._phase
                if phase is _NEVER:
                    self.start()
                if announce is not None:
                    announce()
                wait_for(self._stopped)
        finally:
            self.stop()

    # --- use ---------------------------------------------------------------------------------------------------------

    @property
    def endpoint(self) -> str:
        """Base URL of the runtime, without a trailing slash, as payloads name it.

        Raises:
            RuntimeError: The runtime was not started.
        """
        self._running()
        return self._endpoint

    @property
    def region(self) -> str:
        """The region that signatures must be made for."""
        return self._region

    @property
    def default_job_arn(self) -> str:
        """Job of the rollouts that name none. Its account is one of the runtime's own."""
        return f"arn:aws:sagemaker:{self._region}:000000000000:job/AgentRFT/local"

    @property
    def policy(self) -> Policy | None:
        """Answers inference. May be replaced at any time, also by a plain function. Calls in progress keep theirs."""
        return self._policy

    @policy.setter
    def policy(self, policy: Policy | PolicyFunction | None) -> None:
        self._policy = make_policy(policy)
        if self._inference is not None:
            self._inference.set_policy(self._policy)

    def new_rollout(
        self,
        prompt: JSON,
        *,
        job_arn: str | None = None,
        inference_params: InferenceParams | Mapping[str, Any] | None = None,
    ) -> dict[str, JSON]:
        """Create a trajectory, as the service does when it starts a rollout, and return the payload for its agent.

        Args:
            prompt: The prompt cell, usually a string.
            job_arn: The job. None for `default_job_arn`.
            inference_params: Sampling parameters in any spelling. None to leave them to the agent.

        Returns:
            A payload in GA spelling. The trajectory is durable and PENDING.

        Raises:
            PayloadError: The ARN, a parameter or the prompt is not what a payload may hold.
            RuntimeError: The runtime was not started, or is stopped.
        """
        self._running()
        if self._phase is _STOPPED or self._starter is None:
            raise RuntimeError("this runtime is stopped")
        return self._starter.start(prompt, job_arn, inference_params)

    def observe(self, trajectory_id: str) -> dict[str, JSON] | None:
        """Return the state of a rollout, or None if there is no such rollout. Cheap enough to poll.

        Returns:
            `status`, `rewards` and the number of `turns`. Once the rollout is over also the `usage` of each turn, and
            the `seconds` from its creation to the end of its last turn.
        """
        self._running()
        return None if self._starter is None else self._starter.observe(trajectory_id)

    def trajectory(self, trajectory_id: str) -> Trajectory:
        """Return one trajectory with the turns recorded so far, also if it is older than the last `reset`.

        Raises:
            TrajectoryNotFoundError: There is none with this id.
        """
        trajectories = self._running()
        entry = trajectories.get(trajectory_id)
        found = trajectories.trajectories([entry]) if entry is not None else []
        if not found:
            raise TrajectoryNotFoundError(f"trajectory {trajectory_id!r} does not exist in this runtime", status=404)
        return found[0]

    def trajectories(
        self, status: TrajectoryStatus | str | None = None, job_arn: str | None = None
    ) -> list[Trajectory]:
        """Return the trajectories created since the last `reset`, in the order of their creation.

        Args:
            status: Only those in this state. None for all.
            job_arn: Only those of this job. None for all.
        """
        wanted = None if status is None else TrajectoryStatus(status)
        trajectories = self._running()
        return [
            trajectory
            for trajectory in trajectories.trajectories(trajectories.entries(self._first))
            if wanted in (None, trajectory.status) and job_arn in (None, trajectory.job_arn)
        ]

    @property
    def untracked_calls(self) -> int:
        """Number of inference calls since the last `reset` that named no trajectory."""
        return self._inference.untracked_calls if self._inference is not None else 0

    def problems(self) -> list[Problem]:
        """Return what would make the service fail the job, or wastes a rollout, among the trajectories since `reset`.

        Call it when all rollouts are over: a rollout in progress shows as "open".
        """
        entries = self._running().entries(self._first)
        return [problem for entry in entries for problem in find_problems(entry.state, entry.trajectory_id)]

    def export(self, path: str | Path) -> int:
        """Write the trajectories since the last `reset` as recordings for `ReplayPolicy`. Returns their number.

        Trajectories without turns are left out. The file is replaced as a whole or not at all.
        """
        return write_recordings(self.trajectories(), path)

    def reset(self) -> None:
        """Let `trajectories`, `problems`, `untracked_calls` and `export` start from nothing, as in a new test.

        Nothing is deleted: `trajectory` still finds older trajectories, and their agents are still served.
        """
        self._first = len(self._running())
        if self._inference is not None:
            self._inference.untracked_calls = 0

    def forget(self, trajectory_ids: Iterable[str]) -> None:
        """Delete trajectories and their turns, so that a runtime that serves for long stays small.

        Later calls for them are answered 404. Ids of unknown trajectories are passed over, so repeating is safe. The
        file does not shrink: new records take the place of deleted ones.
        """
        self._running().forget(trajectory_ids)

    def _running(self) -> Trajectories:
        if self._trajectories is None:
            raise RuntimeError("this runtime was not started. Use it in a with statement, or call start()")
        return self._trajectories


def _abandon(server: ServerThread, trajectories: Trajectories) -> None:
    server.stop()
    trajectories.close()
