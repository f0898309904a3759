"""A real browser for tests of pages, and a server for the pages. Debian's `chromium` and the package playwright."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from aws_rft_sdk._listening import listen
from aws_rft_sdk.runs.looking import RunView
from aws_rft_sdk.viewer.app import create_app
from aws_rft_sdk.viewer.watching import WatchedRun

KEY = "key-of-the-tests"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or find_spec("playwright") is None,
    reason="needs: apt-get install chromium; pip install playwright",
)
# Chromium looks for updates and the like at its start, which no test may do; and root has no sandbox.
_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)


@contextmanager
def chromium() -> Iterator[Any]:
    """Start a browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def served(*runs: str | Path, key: str | None = KEY) -> Iterator[str]:
    """Serve the pages of runs, and return their address."""
    watched = [WatchedRun(RunView.open(run), 1.0) for run in runs]
    listener = listen(0, "127.0.0.1")
    server = uvicorn.Server(
        uvicorn.Config(create_app(watched, key=key), log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
        for run in watched:
            run.close()


class Tab:
    """A page of the browser that remembers errors and what it asked for.

    Args:
        page: The page.
    """

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address = page, address
        self.errors: list[str] = []
        self.requests: list[str] = []
        page.set_default_timeout(20_000)
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", lambda dialog: (self.errors.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: self.requests.append(request.url))

    def open(self, path: str = "/") -> Any:
        """Open a page, with the key."""
        mark = "&" if "?" in path else "?"
        self.page.goto(f"{self.address}{path}{mark}key={KEY}")
        return self.page

    @property
    def elsewhere(self) -> list[str]:
        """Addresses outside of the server that were asked for."""
        return [url for url in self.requests if not url.startswith((self.address, "about:"))]
