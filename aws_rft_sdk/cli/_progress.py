"""How a run goes on, on stderr: a bar in a terminal, a line every 5 s elsewhere."""

from __future__ import annotations

import shlex
import threading
import time

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from aws_rft_sdk.rollout.running import DatasetRun, RunListener, RunStatus
from aws_rft_sdk.runs.records import RolloutRecord
from aws_rft_sdk.runs.table import COMPLETED

_LINE_SECONDS = 5.0


class RunProgress(RunListener):
    """Shows a run in the body of a `with`, from its begin on."""

    def __init__(self, line_seconds: float = _LINE_SECONDS) -> None:
        self._line_seconds = line_seconds
        self._run: DatasetRun | None = None
        self._completed = self._recorded = self._rewarded = 0
        self._rewards = 0.0
        self._failed: set[tuple[int, int]] = set()
        """Rollouts that ended and did not complete. They may run again."""
        self._began = time.monotonic()
        self._over = threading.Event()
        self._bar: Progress | None = None

    def __enter__(self) -> RunProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        folder = self._run.folder if self._run is not None else None
        is_over = self._run is None or self._run.status in (RunStatus.COMPLETED, RunStatus.FAILED)
        if folder is not None and folder.exists() and not is_over:
            click.echo(f"go on with: aws-rft rollout --resume {shlex.quote(str(folder))}", err=True)

    def _stop(self) -> None:
        self._over.set()
        if self._bar is not None:
            self._bar.stop()

    def begun(self, run: DatasetRun) -> None:
        """Say where records go, and begin to show the run."""
        self._run, self._began = run, time.monotonic()
        table = run.table
        for key, status, reward in zip(table.keys, table.status, table.reward, strict=True):
            self._count(key, status == COMPLETED, reward)
        click.echo(f"records go to {run.folder}" if run.folder else "no records are kept (--discard)", err=True)
        console = Console(stderr=True)
        if console.is_terminal:
            columns = TextColumn("{task.fields[run]}", markup=False), BarColumn(), TimeRemainingColumn()
            self._bar = Progress(*columns, console=console)
            self._bar.add_task("", total=run.total, completed=self._ended, run=self)
            self._bar.start()
        else:
            threading.Thread(target=self._lines, name="rft-progress", daemon=True).start()

    def recorded(self, record: RolloutRecord) -> None:
        """Count a rollout."""
        self._recorded += 1
        self._count(record.key, record.ended_well, record.reward)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._ended)

    def interrupted(self, times: int) -> None:
        """Say what the signal does, and what the next one will do."""
        if times == 1:
            click.echo("stopping: rollouts in flight are finished; interrupt again to cancel them", err=True)
        else:
            self._stop()  # the next one leaves no time to restore the terminal
            click.echo("cancelling rollouts in flight; interrupt again to end at once", err=True)

    def _count(self, key: tuple[int, int], completed: bool, reward: float | None) -> None:
        if not completed:
            self._failed.add(key)
            return
        self._failed.discard(key)
        self._completed += 1
        if reward is not None and reward == reward:
            self._rewarded += 1
            self._rewards += reward

    @property
    def _ended(self) -> int:
        return self._completed + len(self._failed)

    def _lines(self) -> None:
        while not self._over.wait(self._line_seconds):
            click.echo(str(self), err=True)

    def __str__(self) -> str:
        if self._run is None:
            return "not begun"
        seconds = time.monotonic() - self._began
        parts = [
            f"{self._ended} of {self._run.total} rollouts",
            f"{len(self._failed)} failed" if self._failed else "",
            f"{self._recorded / seconds:.1f}/s" if seconds else "",
            f"mean reward {self._rewards / self._rewarded:.4f}" if self._rewarded else "no reward yet",
            f"{hung} hung" if (hung := self._run.hung) else "",
        ]
        return ", ".join(filter(None, parts))
