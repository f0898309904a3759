"""The life of a stand-in whose jobs are kept in a database: start, stop, restart, and serving until a signal."""

from __future__ import annotations

import contextlib
import socket
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, NamedTuple, TypeVar

from aws_rft_sdk._listening import listen
from aws_rft_sdk.runtime._database import Database
from aws_rft_sdk.runtime.http_server import HOST, ServerThread, handling_signals, wait_for

DRAIN_SECONDS = 5
_StoreT = TypeVar("_StoreT", bound=Database)
_SelfT = TypeVar("_SelfT", bound="JobServer[Any]")


class _Serving(NamedTuple, Generic[_StoreT]):
    store: _StoreT
    server: ServerThread


class JobServer(ABC, Generic[_StoreT]):
    """A server on loopback that runs jobs, and keeps them in a database.

    Args:
        port: Port to listen on. 0 for any free port.

    Concurrency: all methods are safe from any thread.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._serving: _Serving[_StoreT] | None = None
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        """Set by signals, and once it has stopped."""
        self._stopped = False

    @abstractmethod
    def _open(self, undo: contextlib.ExitStack) -> _StoreT:
        """Open the database. What `undo` is given is called if the start fails."""

    @abstractmethod
    def _make_server(self, listener: socket.socket, store: _StoreT) -> ServerThread:
        """Return a server that was not started. It goes on with the jobs that have not ended."""

    def _close(self) -> None:
        """Release what `_open` took beside the database. Called after the server has stopped."""

    def start(self: _SelfT) -> _SelfT:
        """Open the database, begin to serve, and go on with the jobs that have not ended. Returns this object.

        Raises:
            ConfigurationError: The database cannot be used, or another server has it open.
            UnavailableError: The port is in use.
            RuntimeError: It was started before.
        """
        with self._lock:
            if self._serving is not None:
                raise RuntimeError(f"this {type(self).__name__} was started before. Make another one")
            with contextlib.ExitStack() as undo:
                listener = undo.enter_context(contextlib.closing(listen(self._port, HOST)))
                store = self._open(undo)
                undo.callback(store.close)
                self._serve(listener, store)
                undo.pop_all()
        return self

    def _serve(self, listener: socket.socket, store: _StoreT) -> None:
        self._port = listener.getsockname()[1]
        server = self._make_server(listener, store)
        server.start()
        self._serving = _Serving(store, server)
        # A server that nobody stopped must not keep its threads and port for the rest of the process.
        weakref.finalize(self, server.stop)

    def stop(self) -> None:
        """Stop accepting calls, wait up to 5 s for those in progress, and release port and database.

        Jobs in progress stay as they are. Another server with the same `db` goes on with them. Safe to repeat, and to
        call before the start.
        """
        with self._lock:
            if self._serving is None or self._stopped:
                return
            self._stopped = True
            try:
                self._serving.server.stop()
                self._close()
            finally:
                self._serving.store.close()
                self._wanted.set()

    def restart(self) -> None:
        """Stop, and serve again on the same port, as a service does on an update. Jobs go on where they were.

        All connections are closed. Also brings back a server that died of a fault.

        Raises:
            UnavailableError: The port was taken in the meantime.
            RuntimeError: It is not running.
        """
        with self._lock:
            if self._serving is None or self._stopped:
                raise RuntimeError(f"this {type(self).__name__} is not running")
            self._serving.server.stop()
            self._serve(listen(self._port, HOST), self._serving.store)

    def __enter__(self: _SelfT) -> _SelfT:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def serve_forever(self, announce: Callable[[], None] | None = None) -> None:
        """Serve until SIGINT or SIGTERM arrives or another thread calls `stop`, then stop.

        Args:
            announce: Called once calls are accepted and signals are handled.
        """
        try:
            with handling_signals(self._wanted):
                if self._serving is None:
                    self.start()
                if announce is not None:
                    announce()
                wait_for(self._wanted)
        finally:
            self.stop()

    @property
    def endpoint(self) -> str:
        """URL of the server, without a slash at its end: the `endpoint_url` of boto3's clients.

        Raises:
            RuntimeError: It was not started.
        """
        if self._serving is None:
            name = type(self).__name__
            raise RuntimeError(f"this {name} was not started. Use it in a with statement, or call start()")
        return f"http://{HOST}:{self._port}"
