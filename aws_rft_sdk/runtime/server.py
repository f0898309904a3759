"""The life of a local runtime: start, serve in a thread of its own, stop."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import uvicorn

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.credentials import Credentials, CredentialSource, Keys, shared_credentials
from aws_rft_sdk.errors import ConfigurationError, TrajectoryNotFoundError
from aws_rft_sdk.runtime.app import make_app
from aws_rft_sdk.runtime.auth import MODES, AuthMode, Verifier
from aws_rft_sdk.runtime.export import write_recordings
from aws_rft_sdk.runtime.faults import Faults
from aws_rft_sdk.runtime.http_server import HOST, ServerThread, listen
from aws_rft_sdk.runtime.inference import Inference
from aws_rft_sdk.runtime.policies import Policy, PolicyFunction, make_policy
from aws_rft_sdk.runtime.rollout_starter import RolloutStarter
from aws_rft_sdk.runtime.state import Problem, find_problems
from aws_rft_sdk.runtime.trajectories import Trajectories
from aws_rft_sdk.types import InferenceParams, Trajectory, TrajectoryStatus

DEFAULT_REGION = "us-west-2"
DRAIN_SECONDS = 5

_KEEP_ALIVE_SECONDS = 300
_NEVER, _RUNNING, _STOPPED = "not started", "running", "stopped"


class LocalRuntime:
    """A stand-in for the job runtime on this machine: serves inference, records turns, takes rewards.

    Use it as a context manager, or call `start` and `stop`. It listens on 127.0.0.1 only, and serves both generations
    of the contract.

    Args:
        policy: Who answers inference: a policy object, or a function as for `CallablePolicy`. None for nobody: then
            inference is answered 400, and the rest works.
        db: Path of the database file, created if missing and continued if not; ":memory:" for one that ends with this
            object. One runtime at a time can have a file open.
        auth: "any" verifies what is presented and lets unsigned calls pass, "sigv4" and "bearer" demand that form,
            "none" looks at nothing.
        strict: Whether what the service may refuse, or later fails the job over, is refused: inference without the
            headers of a known trajectory, rewards of a length that is neither 1 nor the number of turns, a reward for
            a failed trajectory, a span id used for two requests. When not strict, trajectories are created by the
            first inference call that names them, and untracked calls are answered, counted and not recorded.
        port: Port to listen on, 0 for any that is free.
        credentials: What signatures are verified with: `Keys`, `Credentials`, or a botocore or boto3 session. None for
            the process's own, without asking a metadata service.
        region: The region that signatures must be made for, and that payloads name. None for us-west-2.
        faults: Trouble to make on purpose, None for none.
        clock: Seconds since the epoch, for the age of signatures and the time of creation of trajectories.

    Raises:
        ConfigurationError: An argument has a value that it cannot have.

    Concurrency: all methods are safe from any thread, except inside an async policy, which runs in the server's loop.
    """

    def __init__(
        self,
        policy: Policy | PolicyFunction | None = None,
        *,
        db: str | Path = ":memory:",
        auth: AuthMode = "any",
        strict: bool = True,
        port: int = 0,
        credentials: Keys | Credentials | CredentialSource | None = None,
        region: str | None = None,
        faults: Faults | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if auth not in MODES:
            raise ConfigurationError(f"auth must be one of {', '.join(MODES)}, not {auth!r}")
        if not 0 <= port <= 65535:
            raise ConfigurationError(f"port must be from 0 to 65535, not {port}")
        self._policy = make_policy(policy)
        self._db = db
        self._auth = auth
        self._strict = strict
        self._port = port
        self._keys = _key_reader(credentials)
        self._region = region or DEFAULT_REGION
        self._faults = faults
        self._clock = clock
        self._phase = _NEVER
        self._lock = threading.Lock()
        self._trajectories: Trajectories | None = None
        self._inference: Inference | None = None
        self._starter: RolloutStarter | None = None
        self._server: ServerThread | None = None
        self._stopped = threading.Event()
        self._first = 0

    # --- life --------------------------------------------------------------------------------------------------------

    def start(self) -> LocalRuntime:
        """Open the database and begin to serve; returns this runtime once calls are accepted.

        Raises:
            ConfigurationError: The port is in use; the database cannot be used; credentials are needed and missing.
                Nothing stays open, and the start may be tried again.
            RuntimeError: It was started before.
        """
        with self._lock:
            if self._phase is not _NEVER:
                raise RuntimeError(f"this runtime cannot be started: it is {self._phase}; make another one")
            if self._auth in ("sigv4", "bearer") and self._keys() is None:
                raise ConfigurationError(
                    f"auth={self._auth!r} needs credentials to verify with, and there are none; pass credentials=, set "
                    'AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use auth="any"'
                )
            listener = listen(self._port)
            try:
                trajectories = Trajectories(self._db, self._clock)
            except BaseException:
                listener.close()
                raise
            try:
                self._serve(listener, trajectories)
            except BaseException:
                listener.close()
                trajectories.close()
                raise
            self._phase = _RUNNING
        return self

    def _serve(self, listener: socket.socket, trajectories: Trajectories) -> None:
        for entry in trajectories.entries():
            if self._policy is not None and self._server is None:
                self._policy.begin(entry.trajectory_id, json.loads(entry.prompt))
        inference = Inference(trajectories, self._policy, strict=self._strict)
        verifier = Verifier(self._auth, self._region, self._keys, self._clock)
        self._port = listener.getsockname()[1]
        starter = RolloutStarter(trajectories, lambda: inference.policy, f"http://{HOST}:{self._port}", self._region)
        config = uvicorn.Config(
            make_app(trajectories, inference, verifier, starter.routes(), strict=self._strict, faults=self._faults),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            loop="asyncio",
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
        server = ServerThread(config, listener, trajectories.attach, inference.aclose)
        server.start()
        # A runtime that nobody stopped must not keep its thread and port for the rest of the process.
        weakref.finalize(self, _abandon, server, trajectories)
        self._trajectories, self._inference, self._starter, self._server = trajectories, inference, starter, server

    def stop(self) -> None:
        """Stop to accept calls, wait up to 5 s for those in progress, and release port and database.

        What was recorded can still be read. Doing it twice, or before the start, is fine.
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
        """Stop and serve again on the same port, with everything that was recorded: what a service does on an update.

        Calls in progress have 5 s to end. Connections are closed, so clients that keep some meet broken ones.

        Raises:
            ConfigurationError: The port was taken meanwhile. The runtime is stopped then.
            RuntimeError: It is not running.
        """
        with self._lock:
            if self._phase is not _RUNNING or self._server is None or self._trajectories is None:
                raise RuntimeError(f"this runtime cannot be restarted: it is {self._phase}")
            self._server.stop()
            listener = listen(self._port)
            try:
                self._serve(listener, self._trajectories)
            except BaseException:
                listener.close()
                self._phase = _STOPPED
                self._trajectories.close()
                raise

    def __enter__(self) -> LocalRuntime:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def serve_forever(self, announce: Callable[[], None] | None = None) -> None:
        """Serve until SIGINT or SIGTERM arrives, or another thread calls `stop`; then stop.

        Starts the runtime if that was not done. Signals are watched only when called in the main thread, and their
        handlers are restored afterwards, so that a second signal during the stop ends the process as usual.

        Args:
            announce: Called once calls are accepted and signals are watched; None for nothing.
        """
        wanted = self._stopped

        def end(number: int, frame: FrameType | None) -> None:
            wanted.set()

        watched = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        before = {number: signal.signal(number, end) for number in watched}
        try:
            with self._lock:
                phase = self._phase
            if phase is _NEVER:
                self.start()
            if announce is not None:
                announce()
            # In slices, because on some systems a wait without end does not let signals through.
            while not wanted.wait(1.0):
                pass
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self.stop()

    # --- use ---------------------------------------------------------------------------------------------------------

    @property
    def endpoint(self) -> str:
        """Base URL of the runtime, without a trailing slash.

        Raises:
            RuntimeError: It was not started.
        """
        self._running()
        return f"http://{HOST}:{self._port}"

    @property
    def region(self) -> str:
        """The region that signatures must be made for."""
        return self._region

    @property
    def default_job_arn(self) -> str:
        """The job that rollouts belong to unless they name one.

        Raises:
            RuntimeError: It was not started.
        """
        if self._starter is None:
            raise RuntimeError("this runtime was not started; use it in a with statement, or call start()")
        return self._starter.default_job_arn

    @property
    def policy(self) -> Policy | None:
        """Who answers inference. May be replaced at any time, also by a plain function.

        Calls in progress keep the one that they were handed to.
        """
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
        """Create a trajectory, as the service does when it starts a rollout, and return what its agent receives.

        Args:
            prompt: The prompt cell: usually a string.
            job_arn: The job. None for a local one.
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

    def trajectory(self, trajectory_id: str) -> Trajectory:
        """Return one trajectory with the turns recorded so far.

        Raises:
            TrajectoryNotFoundError: There is none with this id.
        """
        trajectories = self._running()
        entry = trajectories.get(trajectory_id)
        if entry is None:
            raise TrajectoryNotFoundError(f"trajectory {trajectory_id!r} does not exist in this runtime", status=404)
        return trajectories.trajectory(entry)

    def observe(self, trajectory_id: str) -> dict[str, JSON] | None:
        """Return what became of a rollout so far, None of one that is not known: cheap, for those who wait for it.

        Returns:
            `status`, `rewards` and the number of `turns`; once it is over also the `usage` of each turn, and `seconds`
            from its creation to the end of its last turn.
        """
        self._running()
        return None if self._starter is None else self._starter.observe(trajectory_id)

    def trajectories(
        self, status: TrajectoryStatus | str | None = None, job_arn: str | None = None, *, since: int | None = None
    ) -> list[Trajectory]:
        """Return the trajectories in the order of their creation.

        Args:
            status: Only those in this state; None for all.
            job_arn: Only those of this job; None for all.
            since: Only those created after this `mark`; None for those created after the last `reset`.
        """
        wanted = None if status is None else TrajectoryStatus(status)
        found = self._running().trajectories(self._first if since is None else since)
        return [
            trajectory
            for trajectory in found
            if wanted in (None, trajectory.status) and job_arn in (None, trajectory.job_arn)
        ]

    def mark(self) -> int:
        """Return a mark of this moment for `trajectories(since=...)`."""
        return len(self._running())

    def reset(self) -> None:
        """Begin a new view: what happened before no longer shows in `trajectories`, `problems`, `untracked_calls`.

        Nothing is deleted: `trajectory` still finds the older ones, and their agents are still served.
        """
        self._first = self.mark()
        if self._inference is not None:
            self._inference.untracked_calls = 0

    @property
    def untracked_calls(self) -> int:
        """How many inference calls since the start, or the last `reset`, did not say which trajectory is theirs."""
        return self._inference.untracked_calls if self._inference is not None else 0

    def problems(self) -> list[Problem]:
        """Return what would make the service fail the job, or wastes a rollout, among the trajectories in view.

        Meant for the moment when all rollouts are over: a rollout in progress shows as "open".
        """
        entries = self._running().entries(self._first)
        return [problem for entry in entries for problem in find_problems(entry.state, entry.trajectory_id)]

    def export(self, path: str | Path) -> int:
        """Write the trajectories in view as recordings for `ReplayPolicy`, and return how many were written.

        Those without turns are left out. The file is replaced as a whole or not at all.
        """
        return write_recordings(self.trajectories(), path)

    def _running(self) -> Trajectories:
        if self._trajectories is None:
            raise RuntimeError("this runtime was not started; use it in a with statement, or call start()")
        return self._trajectories


def _key_reader(credentials: Keys | Credentials | CredentialSource | None) -> Callable[[], Keys | None]:
    if isinstance(credentials, Keys):
        keys = credentials
        return lambda: keys
    if isinstance(credentials, Credentials):
        return credentials.keys
    if credentials is None:
        return lambda: shared_credentials(network=False).keys()
    return Credentials(credentials).keys


def _abandon(server: ServerThread, trajectories: Trajectories) -> None:
    server.stop()
    trajectories.close()
