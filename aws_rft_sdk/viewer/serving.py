"""Serves the pages on this machine until the process is told to end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from aws_rft_sdk._listening import listen

_HOST = "127.0.0.1"


def serve(make: Callable[[Callable[[], bool]], ASGIApp], port: int, tell: Callable[[str], None]) -> None:
    """Serve an application on loopback. Blocks until SIGINT or SIGTERM.

    Args:
        make: Makes the application. It is given a function that says whether the server is about to end.
        port: 0 for any free one.
        tell: Is called with the address when calls are accepted.

    Raises:
        UnavailableError: The port is in use.
    """
    with contextlib.closing(listen(port, _HOST)) as listener:
        server: uvicorn.Server
        config = uvicorn.Config(
            make(lambda: server.should_exit),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        tell(f"http://{_HOST}:{listener.getsockname()[1]}")
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
