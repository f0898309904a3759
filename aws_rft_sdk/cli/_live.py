"""Figures of a training that goes on, on stderr."""

from __future__ import annotations

from collections.abc import Mapping

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text
from typing_extensions import Self


class LiveFigures:
    """Shows figures in the body of a `with`: a live view in a terminal, a line for each step elsewhere.

    Args:
        first: What the view says before there are figures.
    """

    def __init__(self, first: str) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._live = Live(first, console=self._console, auto_refresh=False) if self._console.is_terminal else None

    @property
    def encoding(self) -> str:
        """Encoding of the terminal or file."""
        return self._console.encoding

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, figures: Mapping[str, str]) -> None:
        """Show the figures of a step in place of the ones before."""
        if self._live is None:
            click.echo("  " + "  ".join(f"{name} {value}" for name, value in figures.items()), err=True)
            return
        view = Table.grid(padding=(0, 0, 0, 2))
        for name, value in figures.items():
            view.add_row(name, Text(value))
        self._live.update(view, refresh=True)
