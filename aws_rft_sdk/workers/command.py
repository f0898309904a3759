"""Serves a worker until it is told to end, and then ends it in good order."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette

from aws_rft_sdk._checks import check_seconds
from aws_rft_sdk._listening import listen
from aws_rft_sdk.errors import ConfigurationError, OutboxError, ShuttingDownError
from aws_rft_sdk.feedback import redrive
from aws_rft_sdk.feedback.outbox import Outbox, shared_outbox
from aws_rft_sdk.lifecycle.shutdown import GRACE_SECONDS, end_at
from aws_rft_sdk.workers._bodies import READ_SECONDS
from aws_rft_sdk.workers.pool import LOST, RolloutPool

logger = logging.getLogger(__name__)

ANY_HOST = "0.0.0.0"  # noqa: S104 - a container's port is reached from outside it, by probes as well
PORT = 8080
_SWITCH_SECONDS = 0.001
_CLOSE_SECONDS = 2
"""For answers on their way when everything else is over."""
_FLUSH_SHARE, _FLUSH_SECONDS = 0.1, 10.0
"""Share of the grace period that is kept for what stands in the outbox, and how much at most."""


def serve(
    app: Starlette,
    *,
    host: str = ANY_HOST,
    port: int = PORT,
    grace_seconds: float = GRACE_SECONDS,
    announce: Callable[[str], None] | None = None,
) -> None:
    """Serve a worker until SIGTERM or SIGINT. For the main thread.

    At the signal new rollouts are refused (503), while `/ping`, `/health` and repeated deliveries are still answered.
    Those in progress may end; at the end of the grace period the rest is reported as errors, and what stands in the
    outbox that `RFT_OUTBOX` names is delivered as far as time permits. Then it returns. A second signal ends the
    process at once.

    A worker that is stuck (see `RolloutPool.should_end`) ends by itself. What runs may go on to its own deadline.

    Args:
        app: What `create_app` made.
        host: Address to listen on. The default is every address of this machine, as containers need.
        port: 0 for any that is free.
        grace_seconds: From the signal to the end. Stay below what the platform allows.
        announce: Called with the URL once payloads are accepted.

    Raises:
        ConfigurationError: There is no such host or port, the grace period is no positive number, or this is not the
            main thread.
        UnavailableError: The port is in use, or this process may not use it.
        OutboxError: The outbox cannot be written.
        ShuttingDownError: So many threads hang that this process should be replaced.
    """
    check_seconds("grace_seconds", grace_seconds)
    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError("serve() handles signals, so it must be called in the main thread")
    listener = listen(port, host)
    url = _url(listener)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        ws="none",
        loop="asyncio",
        timeout_graceful_shutdown=_CLOSE_SECONDS,
    )
    pool: RolloutPool = app.state.pool
    # The server's thread waits for the interpreter each time a handler computes, several times for one answer.
    sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_SECONDS))
    # What is loaded by now stays. Each look through it for garbage would stop everything for a tenth of a second.
    gc.collect()
    gc.freeze()
    with listener:
        pool.start()  # what is wrong with an outbox is raised here, and not logged by the server
        server = _Server(config, pool, grace_seconds, lambda: announce(url) if announce is not None else None)
        server.run(sockets=[listener])
    if not server.started:
        raise ConfigurationError("the worker could not start; its log says why")
    if server.is_lost:
        raise ShuttingDownError(LOST)


class _Server(uvicorn.Server):
    """uvicorn that goes on serving while rollouts end."""

    def __init__(
        self,
        config: uvicorn.Config,
        pool: RolloutPool,
        grace_seconds: float,
        announce: Callable[[], None],
        head_seconds: float = READ_SECONDS,
    ) -> None:
        super().__init__(config)
        self._head_seconds = head_seconds
        self._pool = pool
        self._grace_seconds = grace_seconds
        self._announce = announce
        self._draining = False
        self.is_lost = False
        """Whether it ends since its pool should end."""
        self._quiet: dict[tuple[Any, Any], float] = {}
        """Connections on which no request is in progress, each with its last one, and since when."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept calls, and say so."""
        await super().startup(sockets=sockets)
        if self.started:
            self._announce()

    async def on_tick(self, counter: int) -> bool:
        """Do what uvicorn does ten times a second, and once a second look at the connections."""
        if counter % 10 == 0:
            self._close_quiet(time.monotonic())
            if self._pool.should_end and not (self.is_lost or self._draining):
                self.is_lost = True
                logger.error("hung=<%d> | %s", self._pool.figures().hung, LOST)
                self._begin_drain(self._pool.ending_seconds(self._grace_seconds), 1)
        return await super().on_tick(counter)

    def _close_quiet(self, now: float) -> None:
        """Close connections on which no request's head arrives, which uvicorn would keep for good.

        Each takes one of the descriptors that handlers need for their model calls.
        """
        connections: set[Any] = self.server_state.connections
        # With the last request, since a connection in use may be between two whenever somebody looks.
        # Another version of uvicorn may know it under another name: then connections are left alone.
        known = [(one, one.cycle) for one in connections if hasattr(one, "cycle")]
        quiet = {(one, cycle) for one, cycle in known if cycle is None or cycle.response_complete}
        self._quiet = {each: self._quiet.get(each, now) for each in quiet}
        for (connection, _), since in self._quiet.items():
            if now - since > self._head_seconds:
                connection.transport.close()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal; end at the second, as if nobody handled it."""
        if self._draining:
            signal.signal(sig, signal.SIG_DFL)
            os.kill(os.getpid(), sig)
            return
        self._draining = True
        self._begin_drain(self._grace_seconds, 0)

    def _begin_drain(self, grace_seconds: float, status: int) -> None:
        threading.Thread(target=self._drain, args=(grace_seconds, status), name="rft-drain", daemon=True).start()

    def _drain(self, grace_seconds: float, status: int) -> None:
        end = time.monotonic() + grace_seconds
        logger.info("grace_seconds=<%g> | draining: new rollouts are refused", grace_seconds)
        try:
            drained = self._pool.drain(grace_seconds - flush_seconds(grace_seconds))
            logger.info("finished=<%d>, given_up=<%d> | drained", *drained)
            flush(end)
        except Exception:
            logger.exception("the drain failed")
        end_at(min(end, time.monotonic() + self._grace_seconds) + _CLOSE_SECONDS, status)
        self.should_exit = True


def flush_seconds(grace_seconds: float) -> float:
    """Return how much of a grace period is kept for `flush`."""
    return min(_FLUSH_SHARE * grace_seconds, _FLUSH_SECONDS)


def flush(end: float) -> None:
    """Deliver what stands in the outbox that `RFT_OUTBOX` names, if there is one, at most until `end`.

    Args:
        end: On the monotonic clock. What is not delivered by then, the next process delivers.
    """
    outbox = shared_outbox(None)
    if outbox is None or not outbox.path.is_file():
        return
    thread = threading.Thread(target=_deliver_all, args=(outbox,), name="rft-flush", daemon=True)
    thread.start()
    thread.join(max(0.0, end - time.monotonic()))


def _deliver_all(outbox: Outbox) -> None:
    redrive.stop_in_background(outbox)
    try:
        done = redrive.deliver_pending(outbox)
    except OutboxError as error:
        logger.error("outbox=<%s>, error=<%s> | could not be flushed", outbox.path, error)
    else:
        logger.info("delivered=<%d>, pending=<%d>, refused=<%d> | outbox flushed", *done)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
