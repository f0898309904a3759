"""Runs as one HTML file that needs nothing else: figures, plots, the verdict of a preflight, and some rollouts."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runs.looking import RunView
from aws_rft_sdk.runs.manifest import Manifest
from aws_rft_sdk.runs.metrics import RunComparison, compare, hints, measure
from aws_rft_sdk.runs.preflight import TrainingPlan, preflight
from aws_rft_sdk.runs.preflight.estimates import estimate_job
from aws_rft_sdk.runs.preflight.histories import read_histories
from aws_rft_sdk.runs.records import DATABASE_FILE
from aws_rft_sdk.runs.table import RolloutTable
from aws_rft_sdk.runs.where import parse_where
from aws_rft_sdk.viewer import contents
from aws_rft_sdk.viewer.app import template_text
from aws_rft_sdk.viewer.charts import bins_of, curve, histogram

_STYLE = Path(__file__).parent / "static" / "style.css"
_KINDS = {
    "worst": ("", "reward"),
    "best": ("", "-reward"),
    "failed": ("outcome!=completed", "-seconds"),
    "longest": ("", "-turns"),
}
"""Name, filter and order of the rollouts that a report has."""


@dataclass(frozen=True)
class ReportedRun:
    """A run that a report is made of."""

    folder: Path
    table: RolloutTable
    manifest: Manifest | None
    """What the run was made of. None where nobody knows."""
    success_threshold: float
    """Lowest reward that counts as a success."""
    plan: TrainingPlan
    """What a job would be run with."""

    def values(self, samples: int) -> dict[str, Any]:
        """Return what a template shows of the run, with `samples` rollouts of each kind."""
        figures = measure(
            self.table,
            success_threshold=self.success_threshold,
            prompts=None if self.manifest is None else self.manifest.rows,
            max_tokens=self.plan.max_tokens,
        )
        with RunView.open(self.folder) as view:
            view.update()
            return {
                "name": str(self.folder),
                "manifest": self.manifest,
                "figures": {name: value for name, value in figures.to_dict().items() if value is not None},
                "hints": hints(figures),
                "verdict": preflight(self.table, self.plan, success_threshold=self.success_threshold),
                "estimates": estimate_job(self.table, self.plan).to_dict(),
                "histories": read_histories(self.folder / DATABASE_FILE),
                "curve": curve([(part.end, part.mean) for part in view.curve()], "mean reward, rollout by rollout"),
                "histogram": histogram(bins_of(Counter(view.values("reward"))), "reward"),
                "turns": histogram(bins_of(Counter(view.values("turns"))), "turns"),
                "seconds": histogram(bins_of(Counter(view.values("seconds"))), "seconds"),
                "samples": _samples(view, samples),
                "notes": view.notes(),
            }


def _samples(view: RunView, count: int) -> list[tuple[str, dict[str, Any]]]:
    """Return rollouts of each kind, each rollout once."""
    seen: set[str] = set()
    found = []
    for kind, (where, sort) in _KINDS.items():
        page = view.rollouts(parse_where(where) if where else None, sort=sort, limit=count * (len(_KINDS) + 1))
        chosen = [item.trajectory_id for item in page.rollouts if item.trajectory_id not in seen][:count]
        seen.update(chosen)
        found += [(kind, contents.rollout_page(view, trajectory_id)) for trajectory_id in chosen]
    return found


def write_report(runs: Sequence[ReportedRun], *, samples: int = 3) -> str:
    """Return the page.

    It loads nothing and runs nothing: it has no scripts, and its policy forbids them. All texts are escaped.

    Args:
        runs: One or more. Each after the first is compared with the first.
        samples: Rollouts of each kind that the page holds as conversations.

    Raises:
        ConfigurationError: A run has no rollouts.
        DatasetError: A database is damaged.
        UnavailableError: An index of a run cannot be written.
    """
    for run in runs:
        if not len(run.table):
            raise ConfigurationError(f"{run.folder} has no rollouts yet")
    style = _STYLE.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    values = {
        "runs": [run.values(samples) for run in runs],
        "comparisons": [(str(run.folder), _compared(runs[0], run)) for run in runs[1:]],
        "style": style,
        "policy": f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
    }
    return template_text("report.html", values)


def _compared(one: ReportedRun, other: ReportedRun) -> RunComparison | str:
    try:
        return compare(one.table, other.table, success_threshold=one.success_threshold)
    except ConfigurationError as error:
        return str(error)
