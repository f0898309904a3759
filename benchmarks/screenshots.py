"""Takes the pictures of the pages for docs/view.md: an overview, a group, a rollout and a report.

    python benchmarks/screenshots.py [--folder docs/images]

Runs the example of the calculator, and looks at the run with Debian's chromium and the package playwright.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import uvicorn
from click.testing import CliRunner
from playwright.sync_api import sync_playwright

from aws_rft_sdk._listening import listen
from aws_rft_sdk.cli import main as cli
from aws_rft_sdk.rollout import run
from aws_rft_sdk.runs.looking import RunView
from aws_rft_sdk.viewer.app import create_app
from aws_rft_sdk.viewer.watching import WatchedRun

EXAMPLE = Path(__file__).parents[1] / "examples" / "gsm8k_calculator"
WIDTH, HEIGHT = 1400, 850


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[1] / "docs" / "images")
    folder: Path = parser.parse_args().folder.resolve()
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(shutil.copytree(EXAMPLE, Path(temporary, "example")))  # so that no picture has a path of this machine
        path, report = Path("calculator"), Path("report.html").resolve()
        run("agent.py:handler", "problems.jsonl", out=path, group_size=8)
        CliRunner().invoke(cli, ["report", str(path), "-o", str(report)], catch_exceptions=False)
        watched = WatchedRun(RunView.open(path), 1.0)
        watched.view.name = "calculator"
        listener = listen(0, "127.0.0.1")
        config = uvicorn.Config(create_app([watched], key=None), log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            _take(f"http://127.0.0.1:{listener.getsockname()[1]}", report, folder)
        finally:
            server.should_exit = True
            thread.join()
            watched.close()


def _take(address: str, report: Path, folder: Path) -> None:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-background-networking"]
        )
        page = chromium.new_page(viewport={"width": WIDTH, "height": HEIGHT})

        def shoot(name: str, url: str) -> Any:
            page.goto(url)
            page.screenshot(path=folder / f"{name}.jpg", type="jpeg", quality=70)

        shoot("overview", f"{address}/")
        shoot("group", f"{address}/view/0/groups/3")
        link = page.locator("a.item").first.get_attribute("href")
        shoot("rollout", f"{address}{link}")
        shoot("report", report.as_uri())
        chromium.close()


if __name__ == "__main__":
    main()
