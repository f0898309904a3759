"""An HTTP server in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime.faults import abort

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
START_TIMEOUT_SECONDS = 30.0
_LAST_WORDS_SECONDS = 1.0
_KEEP_ALIVE_SECONDS = 300


def make_config(
    app: ASGIApp, *, drain_seconds: int, certfile: str | Path | None, keyfile: str | Path | None
) -> uvicorn.Config:
    """Return the settings of a server for an application. Give both files to serve https."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        loop="asyncio",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=drain_seconds,
        ssl_certfile=certfile,
        ssl_keyfile=keyfile,
    )


@contextlib.contextmanager
def handling_signals(wanted: threading.Event) -> Iterator[None]:
    """Within it, SIGINT and SIGTERM set an event. Does nothing outside the main thread, where signals do not arrive.

    The handlers are restored when the body ends, so a second signal afterwards ends the process as usual.
    """

    def end(number: int, frame: FrameType | None) -> None:
        wanted.set()

    watched = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, end) for number in watched}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_for(wanted: threading.Event) -> None:
    """Wait for an event in slices of 1 s, because on some systems an endless wait holds signals back."""
    while not wanted.wait(1.0):
        pass


class ServerThread(uvicorn.Server):
    """uvicorn in a thread. An event stops it, so it need not poll. It leaves signals alone.

    Args:
        config: The application and its settings.
        listener: The socket that listens. Closed at the end.
        attach: Called with the server's event loop before the first call.
        close: Awaited in that loop after the last call.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        listener: socket.socket,
        attach: Callable[[asyncio.AbstractEventLoop], None],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(config)
        self._listener = listener
        self._attach = attach
        self._close = close
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="aws-rft-runtime", daemon=True)

    def start(self) -> None:
        """Return once calls are accepted.

        Raises:
            ConfigurationError: The server did not start. Nothing keeps running.
        """
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT_SECONDS):
            self.stop()
            raise ConfigurationError(f"the runtime did not start within {START_TIMEOUT_SECONDS:g} s")
        if self._error is not None:
            self._thread.join()
            raise ConfigurationError(f"the runtime could not start: {self._error}") from self._error

    def stop(self) -> None:
        """Return once the thread has ended and every connection is closed. Repeating is safe."""
        self.should_exit = True
        if self._loop is not None and self._ended is not None:
            try:
                self._loop.call_soon_threadsafe(self._ended.set)
            except RuntimeError:
                pass  # the loop has ended already
        if self._thread is not threading.current_thread():
            self._thread.join()

    def die(self) -> None:
        """End like a killed process: nothing more is answered or takes effect. Call it in the server's event loop."""
        for server in self.servers:
            server.close()
        self._abort(lambda transport: True)
        for task in self.server_state.tasks - {asyncio.current_task()}:
            task.cancel()
        self.should_exit = self.force_exit = True
        if self._ended is not None:
            self._ended.set()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except (Exception, SystemExit) as error:  # uvicorn exits where it cannot start
            self._error = error
            if self._ready.is_set():
                logger.exception("the local runtime ended")
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._attach(self._loop)
        try:
            await self.serve(sockets=[self._listener])
        finally:
            # uvicorn has cancelled the calls that took too long, and they answer that now. It leaves a connection open
            # whose peer does not read.
            self._abort(lambda transport: transport.get_write_buffer_size() > 0)
            if tasks := set(self.server_state.tasks):
                await asyncio.wait(tasks, timeout=_LAST_WORDS_SECONDS)
            self._abort(lambda transport: True)
            await self._close()

    def _abort(self, wanted: Callable[[asyncio.Transport], bool]) -> None:
        for connection in list(self.server_state.connections):
            if wanted(connection.transport):
                abort(connection.transport)

    # The following methods replace methods of uvicorn.

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept calls, and release `start`."""
        await super().startup(sockets=sockets)
        self._ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the calls in progress and close all connections."""
        if self.config.is_ssl:
            for connection in list(self.server_state.connections):
                cycle = getattr(connection, "cycle", None)  # the call in progress, or the last one
                if cycle is None or cycle.response_complete:
                    # TLS would wait for the peer to say goodbye too, which an idle client does not do.
                    connection.transport.abort()
        await super().shutdown(sockets=sockets)

    async def main_loop(self) -> None:
        """Wait for the end."""
        assert self._ended is not None  # noqa: S101 - set before uvicorn comes here; for the type checker
        counter = 0
        while not await self.on_tick(counter):
            counter += 10  # uvicorn counts tenths of a second, and renews its date header every tenth of them
            try:
                await asyncio.wait_for(self._ended.wait(), 1.0)
            except asyncio.TimeoutError:
                continue
